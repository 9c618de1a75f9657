//! Where an entry stands.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// An entry's partition and its sequence there. Shown as `immutable:log:<partition>/<seq>`
/// (spec 80 §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// The entry's sequence in it.
    pub seq: u64,
}

const PREFIX: &str = "immutable:log:";

impl Place {
    /// As people say it: `7`, and beyond the first partition `3/7`. [`FromStr`] reads it.
    pub fn short(self) -> String {
        match self.partition {
            0 => self.seq.to_string(),
            partition => format!("{partition}/{}", self.seq),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}/{}", self.partition, self.seq)
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let place = text.strip_prefix(PREFIX).unwrap_or(text);
        let (partition, seq) = place.split_once('/').unwrap_or(("0", place));
        let why = || format!("{text:?} names no entry: 7, 3/7 or {PREFIX}3/7 would");
        let no_place = || Error::malformed("place", why());
        // Only what is written here is read: no sign, no leading zero.
        let digits = |it: &str| it == "0" || it.starts_with(|c: char| matches!(c, '1'..='9'));
        if !digits(partition) || !digits(seq) {
            return Err(no_place());
        }
        let partition = partition.parse().map_err(|_| no_place())?;
        Ok(Place { partition, seq: seq.parse().map_err(|_| no_place())? })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for place in [Place::default(), Place { partition: 3, seq: 70 }] {
            assert_eq!(place.to_string().parse::<Place>().unwrap(), place);
            assert_eq!(place.short().parse::<Place>().unwrap(), place);
        }
        assert_eq!("7".parse::<Place>().unwrap().to_string(), "immutable:log:0/7");
        for wrong in ["", "/", "1/", "/1", "+1", "01", "1/2/3", "inc-1", "immutable:log:"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
