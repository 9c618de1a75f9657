//! What the target of an operation names. A service's name may hold a `/`, so a target is told by
//! how it begins and ends, and no scope may begin with one of those words.

/// First words of targets that are no service's own.
pub(crate) const RESERVED: [&str; 3] = ["commit", "env", "route"];

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// A service itself: for a patch, a release in its idle slot.
    Service(&'a str),
    /// `env/SERVICE`: its Python environment.
    Environment(&'a str),
    /// `commit/SERVICE`: the release that is being rolled out becomes the one that runs.
    Commit(&'a str),
    /// `route/SERVICE/shadow`: safe requests are mirrored.
    Shadow(&'a str),
    /// `route/SERVICE/canary/PERCENT`, 1–100: so much goes to the new release.
    Canary(&'a str, u32),
}

impl<'a> Target<'a> {
    /// Reads a target; `None` where it has none of the forms.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (first, rest) = text.split_once('/').unwrap_or((text, ""));
        let target = match first {
            "env" => Target::Environment(rest),
            "commit" => Target::Commit(rest),
            "route" => match rest.strip_suffix("/shadow") {
                Some(service) => Target::Shadow(service),
                None => {
                    let (service, pct) = rest.rsplit_once("/canary/")?;
                    Target::Canary(service, percent(pct)?)
                }
            },
            _ => Target::Service(text),
        };
        (!target.service().is_empty()).then_some(target)
    }

    /// The service that it is about.
    pub(crate) fn service(&self) -> &'a str {
        match self {
            Target::Service(service)
            | Target::Environment(service)
            | Target::Commit(service)
            | Target::Shadow(service)
            | Target::Canary(service, _) => service,
        }
    }
}

fn percent(text: &str) -> Option<u32> {
    let pct: u32 = text.parse().ok()?;
    ((1..=100).contains(&pct) && pct.to_string() == text).then_some(pct)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_whatever_the_scope_of_its_service() {
        for service in ["shop", "prod-eu/shop/web", "a/canary/5", "x/shadow"] {
            let read = |text: &str| Target::parse(text).map(|it| format!("{it:?}"));
            let is = |text: String, target: Target<'_>| {
                assert_eq!(read(&text), Some(format!("{target:?}")), "{text}");
            };
            is(service.to_owned(), Target::Service(service));
            is(format!("env/{service}"), Target::Environment(service));
            is(format!("commit/{service}"), Target::Commit(service));
            is(format!("route/{service}/shadow"), Target::Shadow(service));
            is(format!("route/{service}/canary/25"), Target::Canary(service, 25));
        }
        let none =
            ["", "env/", "env", "route/shop", "route/shop/canary/101", "route/shop/canary/0"];
        for text in none.into_iter().chain(["route/shop/canary/+5", "route//shadow"]) {
            assert_eq!(Target::parse(text), None, "{text}");
        }
    }
}
