//! Protections that can be taken out, so that the fault tests show they would notice; never in a shipped binary.

/// Whether `protection` was taken out by `NIGHTWATT_FAULT`; always false without the feature
/// `fault-controls`, where the compiler leaves nothing of it.
pub(crate) fn without(protection: &str) -> bool {
    cfg!(feature = "fault-controls")
        && std::env::var("NIGHTWATT_FAULT").is_ok_and(|named| named == protection)
}
