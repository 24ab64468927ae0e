//! Why a message is refused.

use super::json::JsonError;

/// Why a message carries no reading; [`RejectReason::as_str`] is the stable word it is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// Larger than 256 KiB.
    TooLarge,
    /// More than eight objects and arrays inside one another.
    TooDeep,
    /// More than 256 values.
    TooManyValues,
    /// Topic is not UTF-8 or no rule matches it.
    UnknownTopic,
    /// Payload is not JSON (or not UTF-8).
    NotJson,
    /// JSON, but not an object.
    NotAnObject,
    /// Neither payload nor topic names a usable device.
    NoDevice,
    /// The time is there and cannot be read.
    BadTime,
    /// The time that belongs to it (on a topic of its own, or in each reading of a batch) is missing.
    NoTime,
    /// A known field holds something that is not a number.
    BadValue,
    /// Not one known field.
    NoValues,
    /// A new device, and there are as many as there may be.
    TooManyDevices,
    /// A new device, and there have been many in the last minute.
    NewDevicesTooFast,
}

impl RejectReason {
    /// Every reason.
    pub const ALL: [RejectReason; 13] = [
        Self::TooLarge,
        Self::TooDeep,
        Self::TooManyValues,
        Self::UnknownTopic,
        Self::NotJson,
        Self::NotAnObject,
        Self::NoDevice,
        Self::BadTime,
        Self::NoTime,
        Self::BadValue,
        Self::NoValues,
        Self::TooManyDevices,
        Self::NewDevicesTooFast,
    ];

    /// The stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::TooManyValues => "too_many_values",
            Self::UnknownTopic => "unknown_topic",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::NoDevice => "no_device",
            Self::BadTime => "bad_time",
            Self::NoTime => "no_time",
            Self::BadValue => "bad_value",
            Self::NoValues => "no_values",
            Self::TooManyDevices => "too_many_devices",
            Self::NewDevicesTooFast => "new_devices_too_fast",
        }
    }
}

impl From<JsonError> for RejectReason {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Syntax => Self::NotJson,
            JsonError::TooDeep => Self::TooDeep,
            JsonError::TooManyValues => Self::TooManyValues,
        }
    }
}
