//! Work on a few threads, where what is waited for is a disk or a peer.

use std::sync::{Mutex, PoisonError};

/// How many at once.
const WORKERS: usize = 4;

/// Does `work` for each item, and answers what came of each, in their order; the first error ends
/// it.
///
/// # Errors
/// As `work`.
pub fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let mut done: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let waiting = Mutex::new(items.iter().zip(&mut done));
    // Nothing panics under the lock.
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        while let Some((item, place)) = next() {
            match work(item) {
                Ok(it) => *place = Some(it),
                Err(error) => {
                    while next().is_some() {}
                    return Err(error);
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS.min(items.len())).map(|_| scope.spawn(run)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    Ok(done.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_items() {
        // The first waits for the second, so they do not end in their order.
        let (said, heard) = mpsc::channel();
        let heard = Mutex::new(heard);
        let work = |it: &u32| {
            match it {
                0 => heard.lock().unwrap().recv().unwrap(),
                1 => said.send(()).unwrap(),
                _ => {}
            }
            Ok(it * 2)
        };
        assert_eq!(each(&[0, 1, 2, 3, 4, 5], work).unwrap(), [0, 2, 4, 6, 8, 10]);
        assert!(each(&[], work).unwrap().is_empty());
    }

    #[test]
    fn the_first_error_ends_it() {
        thread_local! {
            static HELD: RefCell<Option<mpsc::Sender<()>>> = const { RefCell::new(None) };
        }
        // The first fails; the others end only when its thread, which holds the sender, has.
        let (held, ended) = mpsc::channel::<()>();
        let (held, ended) = (Mutex::new(Some(held)), Mutex::new(ended));
        let n_begun = AtomicUsize::new(0);
        let work = |it: &u32| {
            n_begun.fetch_add(1, Relaxed);
            if *it == 0 {
                HELD.set(held.lock().unwrap().take());
                anyhow::bail!("no");
            }
            ended.lock().unwrap().recv().unwrap_err();
            Ok(())
        };
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(each(&items, work).unwrap_err().to_string(), "no");
        // A worker that was slow to take its first finds none left.
        assert!((1..=WORKERS).contains(&n_begun.load(Relaxed)), "{n_begun:?} were begun");
    }
}
