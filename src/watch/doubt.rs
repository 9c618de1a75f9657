//! Whether the service answers at all. Until it was seen well once there is no fault to heal, so
//! nothing else would be said of a wrong URL or of a port that somebody else holds.

use std::time::Duration;

use runner::supervisor::{Kept, Target};
use topologies::config::Service;

use super::clock;
use crate::cli::Form;
use crate::node::Layout;
use crate::out::Out;

/// A service that starts slowly has this many seconds to its first good answer.
const PATIENCE_S: u32 = 10;
/// A look waits this long for an answer.
const LOOK: Duration = Duration::from_secs(1);

/// What a look at the service found.
struct Look {
    /// Whether its process runs.
    runs: bool,
    /// Whether the URL answered well.
    passed: bool,
    /// What was seen, in a few words.
    detail: String,
    /// Where what it writes goes.
    log: String,
}

/// Looks once a second, and says after [`PATIENCE_S`] what is wrong if nothing was well by then.
pub(super) async fn tell(layout: Layout, service: Service, out: Out) {
    let mut last = None;
    for _ in 0..PATIENCE_S {
        tokio::time::sleep(LOOK).await;
        let (layout, service) = (layout.clone(), service.clone());
        let looked = tokio::task::spawn_blocking(move || look(&layout, &service)).await;
        last = looked.ok().flatten();
        if last.as_ref().is_some_and(|it| it.runs && it.passed) {
            return;
        }
    }
    let text = said(&service, last.as_ref());
    match out.form {
        // Its lines are entries of the journal, and this is none.
        Form::Json => out.remark(&text),
        Form::Table => out.line(&format!("{}  {text}", clock(crate::engine::wall_now()))),
    }
}

fn look(layout: &Layout, service: &Service) -> Option<Look> {
    let kept = Kept::read(&layout.runner(), &service.name).ok().flatten()?;
    let port = kept.port().map_or_else(|| "0".to_owned(), |it| it.to_string());
    let target = Target::parse(&service.probe_url.replace("{port}", &port)).ok()?;
    let seen = target.probe(LOOK);
    Some(Look {
        runs: kept.process().is_some(),
        passed: seen.passed,
        detail: seen.detail,
        log: kept.log().display().to_string(),
    })
}

fn said(service: &Service, look: Option<&Look>) -> String {
    let (name, url) = (&service.name, &service.probe_url);
    let Some(Look { runs, passed, detail, log }) = look else {
        return format!(
            "{name} has not been started within {PATIENCE_S} s; see `healwright status`"
        );
    };
    match (runs, passed) {
        (false, true) => format!(
            "{url} answers, and {name} does not run: somebody else has its port; end that or \
             give {name} another port; what it wrote is in {log}"
        ),
        (false, false) => format!(
            "{name} does not run, and {url} gave no good answer within {PATIENCE_S} s ({detail}); \
             what it wrote is in {log}, and why it is not started `healwright status` says"
        ),
        (true, _) => format!(
            "{name} runs, and {url} gave no good answer within {PATIENCE_S} s ({detail}); an \
             answer with status 2xx is good: check --http; what {name} wrote is in {log}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_where_to_look() {
        let url = "http://127.0.0.1:1/".to_owned();
        let shop = Service { name: "shop".to_owned(), probe_url: url, ..Service::default() };
        let told = |runs, passed| {
            let (detail, log) = ("it answered 404".to_owned(), "green.log".to_owned());
            said(&shop, Some(&Look { runs, passed, detail, log }))
        };
        assert!(told(false, true).contains("somebody else has its port"));
        assert!(told(false, false).contains("shop does not run"));
        assert!(told(true, false).contains("within 10 s (it answered 404); an answer"));
        assert!(told(true, false).ends_with("is in green.log"));
        assert!(said(&shop, None).contains("has not been started"));
    }
}
