//! What must never go back: per public key the highest sequence committed and the newest time signed.
//!
//! Per key, so that a stolen daily key which signs the sequence 2^60 or the year 2100 does not lock the
//! backup key out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use crate::clock::WRITTEN;
use crate::reading::TimestampMs;

/// Signed once a month at least; without a newer signature somebody may be holding updates back.
pub const FROZEN_MS: i64 = 30 * 86_400_000;

/// One key's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The highest sequence committed.
    pub sequence: u64,
    /// The newest `issued` of a manifest that was acceptable.
    pub issued: TimestampMs,
}

/// All keys'.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Floors {
    keys: BTreeMap<String, Floor>,
    /// When a manifest was first asked for.
    pub watching_since: Option<TimestampMs>,
}

impl Floors {
    /// That of one key.
    pub fn of(&self, key: &str) -> Floor {
        self.keys.get(key).copied().unwrap_or_default()
    }

    /// The highest sequence committed under any key; none where nothing was.
    pub fn highest(&self) -> Option<u64> {
        let highest = self.keys.values().map(|f| f.sequence).max();
        highest.filter(|sequence| *sequence > 0)
    }

    /// A version was committed.
    pub fn committed(&mut self, key: &str, sequence: u64) {
        let floor = self.keys.entry(key.to_owned()).or_default();
        floor.sequence = floor.sequence.max(sequence);
    }

    /// A manifest was acceptable; whether it was signed later than any before.
    pub fn accepted(&mut self, key: &str, m: &Manifest) -> bool {
        let floor = self.keys.entry(key.to_owned()).or_default();
        let newer = m.issued > floor.issued;
        floor.issued = floor.issued.max(m.issued);
        newer
    }

    /// A time that it is at least, for judging a manifest of this key. The clock counts where it is
    /// trusted; one that is wrong can hold nothing up for longer than it is wrong, as nothing of it is kept.
    pub fn at_least(&self, key: &str, trusted_now: Option<TimestampMs>) -> TimestampMs {
        let known = self.of(key).issued.max(WRITTEN);
        trusted_now.unwrap_or(known).max(known)
    }

    /// For how long nothing newly signed has come, ms, where that is too long.
    pub fn frozen_ms(&self, trusted_now: Option<TimestampMs>) -> Option<i64> {
        let newest = (self.keys.values().map(|f| f.issued)).max();
        let since = newest.filter(|t| t.0 > 0).or(self.watching_since)?;
        Some(trusted_now?.0 - since.0).filter(|ms| *ms > FROZEN_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::manifest::parse;

    const DAY_MS: i64 = 86_400_000;

    fn signed(issued: &str) -> Manifest {
        let json = serde_json::json!({
            "format": 1, "product": "nightwatt", "channel": "stable", "target": "t",
            "version": "0.3.0", "sequence": 12, "issued": issued,
            "expires": "2100-01-01T00:00:00Z", "size": 1, "sha256": "ab".repeat(32), "file": "f",
            "schema": { "from": 1, "to": 4 }, "from_version": "0.1.0"
        });
        parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn o4_time_never_goes_back_and_a_wrong_clock_is_not_kept() {
        let m = signed("2027-01-01T00:00:00Z");
        let mut floors = Floors::default();
        // 1970, and no manifest yet: what runs was built later.
        assert_eq!(floors.at_least("k", Some(TimestampMs(0))), WRITTEN);
        assert_eq!(floors.at_least("k", None), WRITTEN);
        floors.accepted("k", &m);
        assert_eq!(floors.at_least("k", Some(TimestampMs(0))), m.issued);
        assert_eq!(floors.at_least("k", None), m.issued);
        // In 2036 the clock counts; corrected, nothing of it is left.
        let ahead = m.issued.plus_ms(3650 * DAY_MS);
        assert_eq!(floors.at_least("k", Some(ahead)), ahead);
        let right = m.issued.plus_ms(DAY_MS);
        assert_eq!(floors.at_least("k", Some(right)), right);
    }

    #[test]
    fn o4_thirty_days_without_a_new_signature_are_a_freeze() {
        let m = signed("2027-01-01T00:00:00Z");
        let after = |days: i64| Some(m.issued.plus_ms(days * DAY_MS));
        let mut floors = Floors::default();
        assert_eq!(floors.frozen_ms(after(99)), None, "never asked");
        floors.watching_since = after(0);
        assert!(floors.frozen_ms(after(30)).is_none() && floors.frozen_ms(after(31)).is_some());
        assert!(floors.accepted("k", &m));
        assert!(!floors.accepted("k", &m), "the same for ever is not fresh");
        assert!(floors.frozen_ms(after(30)).is_none() && floors.frozen_ms(after(31)).is_some());
        assert!(
            floors.frozen_ms(None).is_none(),
            "an untrusted clock says nothing"
        );
        floors.accepted("k", &signed("2027-02-01T00:00:00Z"));
        assert!(floors.frozen_ms(after(31)).is_none());
    }

    #[test]
    fn o5_what_one_key_signs_does_not_bind_the_other() {
        let mut floors = Floors::default();
        floors.committed("stolen", 1 << 60);
        floors.accepted("stolen", &signed("2099-01-01T00:00:00Z"));
        assert_eq!(floors.of("backup"), Floor::default());
        assert_eq!(floors.at_least("backup", None), WRITTEN);
        floors.committed("stolen", 5);
        assert_eq!(floors.of("stolen").sequence, 1 << 60);
    }
}
