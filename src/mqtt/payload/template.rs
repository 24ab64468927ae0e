//! Topic filters that remember what their wildcards matched, and texts with places for it.

use std::borrow::Cow;

use super::json::{Json, Path};
use super::rules::{PATHS, RuleError, refuse};

/// Wildcards of one filter that templates can name.
const MAX_WILDCARDS: usize = 9;

/// Whether a text is an MQTT topic filter: wildcards alone in their levels, `#` in the last.
pub fn valid_filter(text: &str) -> bool {
    let levels = text.split('/').count();
    let sound = |(i, level): (usize, &str)| match level {
        "+" => true,
        "#" => i + 1 == levels,
        _ => !level.contains(['+', '#', '\0']),
    };
    (1..=usize::from(u16::MAX)).contains(&text.len()) && text.split('/').enumerate().all(sound)
}

/// Whether a topic matches a filter.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    Filter::new(filter).is_ok_and(|f| f.matches(topic).is_some())
}

/// Whether every topic that `narrow` matches is matched by `wide` as well.
fn covers(wide: &str, narrow: &str) -> bool {
    if narrow.starts_with('$') && !wide.starts_with('$') {
        return false;
    }
    // Every topic has a first level.
    let narrow = if narrow == "#" { "+/#" } else { narrow };
    let (mut wide, mut narrow) = (wide.split('/'), narrow.split('/'));
    loop {
        match (wide.next(), narrow.next()) {
            (Some("#"), _) | (None, None) => return true,
            (_, Some("#")) => return false,
            (Some("+"), Some(_)) => {}
            (Some(w), Some(n)) if w == n => {}
            _ => return false,
        }
    }
}

/// Whether some topic is matched by both filters.
fn overlap(a: &str, b: &str) -> bool {
    if a.starts_with('$') != b.starts_with('$') {
        return false;
    }
    let (mut a, mut b) = (a.split('/'), b.split('/'));
    loop {
        match (a.next(), b.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(x), Some(y)) if x == y => {}
            _ => return false,
        }
    }
}

/// What to subscribe to for all of `filters`: those that no other one covers, equal ones once. Brokers may
/// deliver a message once for every subscription that matches it.
pub fn uncovered<'f>(filters: impl Iterator<Item = &'f str>) -> Vec<&'f str> {
    let mut kept: Vec<&str> = Vec::new();
    for filter in filters {
        if !kept.iter().any(|wide| covers(wide, filter)) {
            kept.retain(|narrow| !covers(filter, narrow));
            kept.push(filter);
        }
    }
    kept
}

/// Pairs of them that share topics though none covers the other.
pub fn overlapping<'f>(filters: &[&'f str]) -> Vec<(&'f str, &'f str)> {
    let kept = uncovered(filters.iter().copied());
    let mut pairs = Vec::new();
    for (i, a) in kept.iter().enumerate() {
        let others = kept[i + 1..].iter().filter(|b| overlap(a, b));
        pairs.extend(others.map(|b| (*a, *b)));
    }
    pairs
}

/// An MQTT topic filter.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    text: String,
    wildcards: usize,
}

/// What the wildcards of a filter stand for in a topic.
#[derive(Clone, Copy, Default)]
pub(super) struct Captures<'t> {
    found: [&'t str; MAX_WILDCARDS],
    count: usize,
}

impl<'t> Captures<'t> {
    fn push(&mut self, part: &'t str) {
        if let Some(place) = self.found.get_mut(self.count) {
            *place = part;
            self.count += 1;
        }
    }
}

impl Filter {
    pub(super) fn new(text: &str) -> Result<Self, RuleError> {
        if !valid_filter(text) {
            let problem = "accepted: an MQTT topic filter such as solar/+/telemetry";
            return refuse("filter", text, problem);
        }
        // Its messages come under the topics themselves, and only some of them to each of a group.
        if text.starts_with("$share/") {
            let problem = "accepted: a filter of one's own; a station has to hear everything";
            return refuse("filter", text, problem);
        }
        let wildcards = text.split('/').filter(|l| matches!(*l, "+" | "#")).count();
        Ok(Self {
            text: text.into(),
            wildcards: wildcards.min(MAX_WILDCARDS),
        })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// What the wildcards stand for, where the topic matches at all.
    pub(super) fn matches<'t>(&self, topic: &'t str) -> Option<Captures<'t>> {
        let mut captures = Captures::default();
        // Topics of the broker's own are only for those who name them.
        if topic.starts_with('$') && !self.text.starts_with('$') {
            return None;
        }
        let mut rest = Some(topic);
        for level in self.text.split('/') {
            if level == "#" {
                captures.push(rest.unwrap_or_default());
                return Some(captures);
            }
            let at = rest?;
            let (first, after) = match at.split_once('/') {
                Some((first, after)) => (first, Some(after)),
                None => (at, None),
            };
            match level {
                "+" => captures.push(first),
                exact if exact == first => {}
                _ => return None,
            }
            rest = after;
        }
        rest.is_none().then_some(captures)
    }
}

/// A text with places for what the filter's wildcards matched and for values of the payload.
#[derive(Clone, Debug)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// From zero.
    Wildcard(usize),
    Key(Path),
}

impl Template {
    pub(super) fn new(
        key: &str,
        text: &str,
        filter: &Filter,
        payload: bool,
    ) -> Result<Self, RuleError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                parts.push(Part::Text(before.into()));
            }
            let Some((inside, after)) = after.split_once('}') else {
                return refuse(key, text, "a { is not closed");
            };
            parts.push(match inside.parse::<usize>() {
                Ok(n) if (1..=filter.wildcards).contains(&n) => Part::Wildcard(n - 1),
                Ok(_) => {
                    let problem = format!(
                        "{{{inside}}} stands for a wildcard, and the filter {:?} has {} \
                         (a preset's own filter shows the shape it is made for)",
                        filter.text, filter.wildcards
                    );
                    return refuse(key, text, problem);
                }
                Err(_) if payload => match Path::new(inside) {
                    Some(path) => Part::Key(path),
                    None => return refuse(key, text, PATHS),
                },
                Err(_) => {
                    let problem = "with one value a topic only {1}, {2} and so on";
                    return refuse(key, text, problem);
                }
            });
            rest = after;
        }
        if rest.contains('}') {
            return refuse(key, text, "a } is not opened");
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        if parts.is_empty() {
            return refuse(
                key,
                text,
                "accepted: text, {1} for a wildcard, {key} of a payload",
            );
        }
        Ok(Self(parts))
    }

    /// The keys of a payload that it cannot do without.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Key(path) => Some(path.as_str()),
            Part::Text(_) | Part::Wildcard(_) => None,
        })
    }

    /// The text, where everything it names is there; `payloads` are searched in order.
    pub(super) fn render<'t>(
        &self,
        captures: &Captures<'t>,
        payloads: &[&'t Json<'_>],
    ) -> Option<Cow<'t, str>> {
        let mut text = Cow::Borrowed("");
        for part in &self.0 {
            let part = match part {
                Part::Text(fixed) => Cow::Owned(fixed.clone()),
                Part::Wildcard(i) => Cow::Borrowed(*captures.found.get(*i)?),
                Part::Key(path) => match payloads.iter().find_map(|p| path.find(p))? {
                    Json::Text(name) => Cow::Borrowed(&**name),
                    Json::Number(number) => Cow::Owned(number.to_string()),
                    _ => return None,
                },
            };
            text = if self.0.len() == 1 {
                part
            } else {
                Cow::Owned(text.into_owned() + &part)
            };
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_are_captured_in_order() {
        let captures = |filter: &str, topic: &'static str| {
            let found = Filter::new(filter).unwrap().matches(topic)?;
            Some(found.found[..found.count].to_vec())
        };
        assert_eq!(captures("a/+/c/#", "a/b/c/d/e"), Some(vec!["b", "d/e"]));
        assert_eq!(captures("a/+/#", "a/b"), Some(vec!["b", ""]));
        assert_eq!(captures("#", "a/b"), Some(vec!["a/b"]));
        assert_eq!(captures("a/b", "a/b"), Some(vec![]));
        assert_eq!(captures("a/+", "a"), None);
        assert_eq!(captures("a/+", "a/b/c"), None);
        assert_eq!(captures("+/b", "/b"), Some(vec![""]));
        assert_eq!(captures("#", "$SYS/uptime"), None);
        assert_eq!(captures("$SYS/#", "$SYS/uptime"), Some(vec!["uptime"]));
    }

    #[test]
    fn only_what_no_other_filter_covers_is_subscribed_to() {
        for (filters, kept) in [
            (&["ov/+/telemetry", "ov/+/#"][..], &["ov/+/#"][..]),
            (&["ov/+/#", "ov/+/telemetry"], &["ov/+/#"]),
            (&["a", "a/#"], &["a/#"]),
            (&["a/+", "a/+", "a/b"], &["a/+"]),
            (&["#", "$SYS/#", "a", "+/b"], &["#", "$SYS/#"]),
            (&["+/#", "#"], &["+/#"]),
            (&["a/#", "a/+/#", "a"], &["a/#"]),
            (&["a/+/#", "a"], &["a/+/#", "a"]),
            (&["a/+", "+/b"], &["a/+", "+/b"]),
        ] {
            assert_eq!(uncovered(filters.iter().copied()), kept, "{filters:?}");
        }
        assert_eq!(
            overlapping(&["a/+", "+/b", "c/#", "c/b", "+"]),
            [("a/+", "+/b"), ("+/b", "c/#"), ("c/#", "+")]
        );
    }
}
