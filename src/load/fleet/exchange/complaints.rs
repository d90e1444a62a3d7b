//! What Redis refuses of the rare calls, to be told once: but only where the exchange itself goes well, for else Redis
//! counts as lost, and that is told.

use std::time::Instant;

/// Texts that are told for one connection.
const MOST: usize = 8;

/// Refused calls that have been told, and one that has not.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    untold: Option<(&'static str, String, Instant)>,
    told: Vec<String>,
}

impl Complaints {
    /// A call other than the exchange was refused with this text.
    pub(super) fn refused(&mut self, call: &'static str, text: String, now: Instant) {
        let word = text.split(' ').next().unwrap_or_default();
        // What our scripts answer themselves, and a cluster on the move, is no news.
        if matches!(word, "NOLEASE" | "GAP" | "STALE" | "UNKNOWN" | "RETRY" | "TRYAGAIN") {
            return;
        }
        if self.told.len() < MOST && !self.told.contains(&text) {
            self.untold = Some((call, text, now));
        }
    }

    /// The exchange is refused too, or the connection is lost.
    pub(super) fn trouble(&mut self) {
        self.untold = None;
    }

    /// There is another connection.
    pub(super) fn forget(&mut self) {
        *self = Complaints::default();
    }

    /// An exchange that was `sent` then went well: what is to be told now, a call and a text.
    pub(super) fn tell(&mut self, sent: Instant) -> Option<(&'static str, String)> {
        let (call, text, _) = self.untold.take_if(|(_, _, at)| sent > *at)?;
        self.told.push(text.clone());
        Some((call, text))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_is_told_once_and_only_where_the_rest_goes_well() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        let later = now + Duration::from_millis(1);
        complaints.refused("audit", "RETRY the lease set changed".into(), now);
        assert_eq!(complaints.tell(later), None);
        complaints.refused("reap", "OOM".into(), now);
        assert_eq!(complaints.tell(now), None, "that exchange was on its way before");
        complaints.trouble();
        assert_eq!(complaints.tell(later), None);
        complaints.refused("reap", "NOPERM".into(), now);
        assert_eq!(complaints.tell(later), Some(("reap", "NOPERM".into())));
        complaints.refused("reap", "NOPERM".into(), now);
        assert_eq!(complaints.tell(later), None);
        complaints.forget();
        complaints.refused("reap", "NOPERM".into(), now);
        assert!(complaints.tell(later).is_some());
    }
}
