//! Numbers with their words.

/// `1 day`, `2 days`.
pub fn count(n: impl TryInto<u64>, one: &str) -> String {
    // Nothing that is counted is negative.
    let n = n.try_into().unwrap_or(0);
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

/// `1 is`, `2 are`.
pub fn are(n: u32) -> String {
    format!("{n} {}", if n == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_everything_else_is_many() {
        assert_eq!(count(0, "day"), "0 days");
        assert_eq!(count(1_i64, "day"), "1 day");
        assert_eq!(count(2_usize, "day"), "2 days");
    }
}
