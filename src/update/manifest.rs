//! What a publisher says of a release, and whether this station takes it; pure.

use chrono::DateTime;
use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::reading::TimestampMs;

/// The one manifest format this version knows.
pub const FORMAT: u32 = 1;
/// What we are.
pub const PRODUCT: &str = "nightwatt";
/// A release beyond this is no release of ours, bytes.
const MOST_BYTES: u64 = 256 << 20;
const LONGEST_NAME: usize = 200;

/// A verified manifest. Times are UTC; `schema` bounds are inclusive.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Manifest {
    /// Always [`PRODUCT`] for us.
    pub product: String,
    /// `stable` or another the publisher keeps.
    pub channel: String,
    /// Rust's name of the machine.
    pub target: String,
    /// Version of the file.
    pub version: Version,
    /// The publisher's counter.
    pub sequence: u64,
    /// When it was signed.
    #[serde(deserialize_with = "rfc3339")]
    pub issued: TimestampMs,
    /// Until when it may be accepted.
    #[serde(deserialize_with = "rfc3339")]
    pub expires: TimestampMs,
    /// Exact size of the file, bytes.
    pub size: u64,
    /// Hash of the file, lower-case hex.
    pub sha256: String,
    /// Name of the file beside the manifest.
    pub file: String,
    /// Database schemas the release opens.
    pub schema: SchemaRange,
    /// The oldest version to come from.
    pub from_version: Version,
    /// Which stations take it by themselves.
    #[serde(default)]
    pub rollout: Rollout,
}

fn rfc3339<'de, D: serde::Deserializer<'de>>(d: D) -> Result<TimestampMs, D::Error> {
    let text = String::deserialize(d)?;
    let time = DateTime::parse_from_rfc3339(&text).map_err(serde::de::Error::custom)?;
    Ok(time.to_utc().into())
}

/// Database schemas, both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct SchemaRange {
    /// The oldest.
    pub from: i64,
    /// The newest.
    pub to: i64,
}

/// A share of all stations.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Rollout {
    /// How many in a hundred.
    pub percent: u8,
    /// Mixes the stations anew for each release.
    #[serde(default)]
    pub seed: String,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            percent: 100,
            seed: String::new(),
        }
    }
}

impl Rollout {
    /// Whether the station with this number is among them.
    pub fn includes(&self, station: &str) -> bool {
        let hash = Sha256::new()
            .chain_update(self.seed.as_bytes())
            .chain_update([0])
            .chain_update(station.as_bytes())
            .finalize();
        let place = hash[..8]
            .iter()
            .fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        place % 100 < u64::from(self.percent)
    }
}

/// Why bytes with a good signature are no manifest we understand.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Written for a later version.
    #[error("the manifest has format {0}; this version knows {FORMAT}")]
    Format(u32),
    /// A field holds what it may not.
    #[error("the manifest's {field} is not acceptable: {value:?}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it holds.
        value: String,
    },
}

/// Reads a manifest whose signature **has been verified**.
pub fn parse(verified: &[u8]) -> Result<Manifest, ManifestError> {
    #[derive(Deserialize)]
    struct Envelope {
        format: u32,
    }
    // Only then the rest: another format may mean anything.
    match serde_json::from_slice(verified)? {
        Envelope { format: FORMAT } => {}
        Envelope { format } => return Err(ManifestError::Format(format)),
    }
    let manifest: Manifest = serde_json::from_slice(verified)?;
    let m = &manifest;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    let name_fits = (1..=LONGEST_NAME).contains(&m.file.len())
        && m.file.chars().all(plain)
        && !m.file.starts_with('.');
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let checks = [
        ("sequence", m.sequence > 0, m.sequence.to_string()),
        (
            "size",
            (1..=MOST_BYTES).contains(&m.size),
            m.size.to_string(),
        ),
        (
            "sha256",
            m.sha256.len() == 64 && m.sha256.chars().all(hex),
            m.sha256.clone(),
        ),
        ("file", name_fits, m.file.clone()),
        ("expires", m.issued <= m.expires, m.expires.to_string()),
        (
            "rollout.percent",
            m.rollout.percent <= 100,
            m.rollout.percent.to_string(),
        ),
    ];
    match checks.into_iter().find(|(_, fits, _)| !fits) {
        Some((field, _, value)) => Err(ManifestError::Field { field, value }),
        None => Ok(manifest),
    }
}

/// What a manifest is judged by.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The station's channel.
    pub channel: String,
    /// Its machine.
    pub target: String,
    /// A time that it is at least: never later than the true one, and it does not go back.
    pub at_least: TimestampMs,
    /// The highest sequence committed under the manifest's key.
    pub floor: u64,
    /// The sequence in force; none for the factory binary.
    pub current: Option<u64>,
    /// Whether the manifest's sequence was tried and given up.
    pub rejected: bool,
    /// The version in force.
    pub running: Version,
    /// The version of the factory binary.
    pub factory: Version,
    /// The database's schema.
    pub schema: i64,
    /// The station's number.
    pub station: String,
    /// What whoever asks has allowed.
    pub asked: Allowed,
}

/// What a person may allow; nothing of it by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allowed {
    /// A person asks: the rollout's share does not hold them back.
    pub by_hand: bool,
    /// A rejected sequence once more.
    pub again: bool,
    /// A manifest past its time, from a folder at hand.
    pub expired: bool,
}

/// What comes of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To be fetched and tried.
    Accept,
    /// It is what runs.
    UpToDate,
    /// It is for other stations as yet.
    Wait,
    /// Not to be taken.
    Refuse(Refusal),
}

/// Why a manifest with a good signature is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// For something else.
    #[error("it is for another product")]
    Product,
    /// For stations on another channel.
    #[error("it is of another channel")]
    Channel,
    /// For another machine.
    #[error("it is for another kind of machine")]
    Target,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// An old one, offered again.
    #[error("it is older than what this station has had")]
    Older,
    /// It failed here.
    #[error("it was given up here before; --again takes it once more")]
    Rejected,
    /// The launcher would prefer the factory binary.
    #[error("its version is not newer than the factory binary's")]
    NotNewer,
    /// It could not open the database.
    #[error("it does not know the schema of this station's database")]
    Schema,
    /// An intermediate version is needed.
    #[error("it asks for a newer version to come from")]
    FromVersion,
}

impl Refusal {
    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Product => "product",
            Refusal::Channel => "channel",
            Refusal::Target => "target",
            Refusal::Expired => "expired",
            Refusal::Older => "older",
            Refusal::Rejected => "rejected",
            Refusal::NotNewer => "not_newer",
            Refusal::Schema => "schema",
            Refusal::FromVersion => "from_version",
        }
    }
}

/// Whether to take the release.
pub fn decide(m: &Manifest, f: &Facts) -> Decision {
    use Refusal::*;
    let expired = f.at_least > m.expires && !f.asked.expired;
    match m.sequence {
        _ if m.product != PRODUCT => Decision::Refuse(Product),
        _ if m.channel != f.channel => Decision::Refuse(Channel),
        _ if m.target != f.target => Decision::Refuse(Target),
        _ if expired => Decision::Refuse(Expired),
        sequence if sequence < f.floor => Decision::Refuse(Older),
        sequence if f.current == Some(sequence) => Decision::UpToDate,
        _ if f.rejected && !f.asked.again => Decision::Refuse(Rejected),
        _ if m.version <= f.factory => Decision::Refuse(NotNewer),
        _ if !(m.schema.from..=m.schema.to).contains(&f.schema) => Decision::Refuse(Schema),
        _ if f.running < m.from_version => Decision::Refuse(FromVersion),
        _ if !f.asked.by_hand && !m.rollout.includes(&f.station) => Decision::Wait,
        // Equal to the floor and not in force: what was committed is damaged, and comes back.
        _ => Decision::Accept,
    }
}

#[cfg(test)]
mod tests;
