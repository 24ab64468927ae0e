//! JSON into a tree that borrows from the payload, held to limits while it is read, and paths into it.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

/// Objects and arrays inside one another.
pub const MAX_DEPTH: usize = 8;
/// Values that are no object or array, and empty ones.
pub const MAX_VALUES: usize = 256;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number, exact.
    Number(Number),
    /// A string; borrowed where it holds no escapes.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object in the order of its text; of a key that comes twice the last counts.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Why a payload is no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON, or not UTF-8.
    Syntax,
    /// Over [`MAX_DEPTH`].
    TooDeep,
    /// Over [`MAX_VALUES`].
    TooManyValues,
}

impl<'a> Json<'a> {
    /// Reads the whole payload; what is over a limit is never built.
    pub fn parse(payload: &'a [u8]) -> Result<Self, JsonError> {
        let limits = Limits {
            values_left: Cell::new(MAX_VALUES),
            broken: Cell::new(None),
        };
        let mut from = serde_json::Deserializer::from_slice(payload);
        let seed = Seed {
            limits: &limits,
            depth_left: MAX_DEPTH,
        };
        seed.deserialize(&mut from)
            .and_then(|json| from.end().map(|()| json))
            .map_err(|_| limits.broken.get().unwrap_or(JsonError::Syntax))
    }

    /// The value of a key of an object.
    pub fn member(&self, key: &str) -> Option<&Json<'a>> {
        match self {
            Json::Object(members) => members.iter().rfind(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }
}

/// The payload with `null` for what Python's `json.dumps` and C's `%f` write where a number is missing, and
/// which JSON does not have; `None` where there is nothing of the kind.
pub fn nan_as_null(payload: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&str; 3] = ["nan", "inf", "infinity"];
    let of_a_word = |b: &u8| b.is_ascii_alphanumeric() || b"+-._".contains(b);
    let mut mended = Vec::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(byte) = payload.get(at) {
        let rest = &payload[at..];
        let length = match byte {
            b'"' => text_length(rest),
            _ => rest.iter().take_while(|b| of_a_word(b)).count().max(1),
        };
        let word = &rest[..length];
        let unsigned = word.strip_prefix(b"-").unwrap_or(word);
        if WORDS
            .iter()
            .any(|w| unsigned.eq_ignore_ascii_case(w.as_bytes()))
        {
            mended.extend_from_slice(&payload[copied..at]);
            mended.extend_from_slice(b"null");
            copied = at + length;
        }
        at += length;
    }
    (copied > 0).then(|| {
        mended.extend_from_slice(&payload[copied..]);
        mended
    })
}

/// The payload, or what [`nan_as_null`] makes of it where it is no JSON.
pub fn readable(payload: &[u8]) -> Cow<'_, [u8]> {
    match Json::parse(payload) {
        Err(JsonError::Syntax) => nan_as_null(payload).map_or(Cow::Borrowed(payload), Cow::Owned),
        _ => Cow::Borrowed(payload),
    }
}

/// How long the string is that `text` begins with, with its quotes.
fn text_length(text: &[u8]) -> usize {
    let mut escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

struct Limits {
    values_left: Cell<usize>,
    broken: Cell<Option<JsonError>>,
}

impl Limits {
    fn count<E: Error>(&self) -> Result<(), E> {
        match self.values_left.get().checked_sub(1) {
            Some(left) => {
                self.values_left.set(left);
                Ok(())
            }
            None => Err(self.over(JsonError::TooManyValues)),
        }
    }

    fn over<E: Error>(&self, limit: JsonError) -> E {
        self.broken.set(Some(limit));
        E::custom("over a limit")
    }
}

#[derive(Clone, Copy)]
struct Seed<'l> {
    limits: &'l Limits,
    depth_left: usize,
}

impl Seed<'_> {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Seed { depth_left, ..self }),
            None => Err(self.limits.over(JsonError::TooDeep)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Json<'de>, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        self.limits.count().map(|()| Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json<'de>, E> {
        self.limits.count().map(|()| Json::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json<'de>, E> {
        self.limits.count().map(|()| Json::Number(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json<'de>, E> {
        self.limits.count().map(|()| Json::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        self.limits.count()?;
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Json<'de>, E> {
        self.limits
            .count()
            .map(|()| Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json<'de>, E> {
        self.limits
            .count()
            .map(|()| Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Json<'de>, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(inner)? {
            values.push(value);
        }
        if values.is_empty() {
            self.limits.count()?;
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let inner = self.deeper()?;
        let mut members = Vec::with_capacity(8);
        while let Some(Key(key)) = map.next_key()? {
            members.push((key, map.next_value_seed(inner)?));
        }
        if members.is_empty() {
            self.limits.count()?;
        }
        Ok(Json::Object(members))
    }
}

/// A key that borrows where it can (`Cow` alone never does).
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E: Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E: Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        from.deserialize_str(KeyVisitor)
    }
}

/// Where a value stands: keys and array positions joined by dots, `*` for any key.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    whole: Box<str>,
    /// Empty where the path is one plain key.
    steps: Vec<Box<str>>,
}

impl Path {
    /// `None` where it is empty, has an empty step, or leads deeper than a payload may be.
    pub fn new(text: &str) -> Option<Self> {
        let steps: Vec<&str> = text.split('.').collect();
        if steps.len() > MAX_DEPTH || steps.iter().any(|s| s.is_empty()) {
            return None;
        }
        let plain = steps.len() == 1 && text != "*";
        let steps = if plain { Vec::new() } else { steps };
        Some(Self {
            whole: text.into(),
            steps: steps.into_iter().map(Into::into).collect(),
        })
    }

    /// The name of a value that is not in a payload; it may hold dots.
    pub fn name(text: &str) -> Self {
        Self {
            whole: text.into(),
            steps: Vec::new(),
        }
    }

    /// The text it was made from.
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// The first value at this path. A key that reads like the whole path goes before its steps.
    pub fn find<'t, 'a>(&self, json: &'t Json<'a>) -> Option<&'t Json<'a>> {
        json.member(&self.whole).or_else(|| match &self.steps[..] {
            [] => None,
            steps => walk(json, steps),
        })
    }
}

fn walk<'t, 'a>(json: &'t Json<'a>, steps: &[Box<str>]) -> Option<&'t Json<'a>> {
    let Some((step, rest)) = steps.split_first() else {
        return Some(json);
    };
    match json {
        Json::Object(members) if &**step == "*" => {
            members.iter().find_map(|(_, inner)| walk(inner, rest))
        }
        Json::Object(_) => walk(json.member(step)?, rest),
        Json::Array(list) => walk(list.get(step.parse::<usize>().ok()?)?, rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_equals_what_serde_json_reads() {
        let text = br#"{"a":[1,-2,0.1,"x",null,true],"b":{"c":"\u00e9\n"},"d":{}}"#;
        let json = Json::parse(text).unwrap();
        let find = |path: &str| Path::new(path).unwrap().find(&json).cloned();
        assert_eq!(
            find("a.2"),
            Some(Json::Number(Number::from_f64(0.1).unwrap()))
        );
        assert_eq!(find("b.c"), Some(Json::Text("é\n".into())));
        assert_eq!(find("*.c"), find("b.c"));
        assert_eq!(find("a.6"), None);
        assert_eq!(find("a.x"), None);
        assert_eq!(find("a.0.0"), None);
        assert_eq!(find("d"), Some(Json::Object(vec![])));
        let twice = Json::parse(br#"{"a":1,"a":2}"#).unwrap();
        assert_eq!(twice.member("a"), Some(&Json::Number(2.into())));
        let dotted = Json::parse(br#"{"a.b":1,"a":{"b":2}}"#).unwrap();
        let path = Path::new("a.b").unwrap();
        assert_eq!(path.find(&dotted), Some(&Json::Number(1.into())));
    }

    #[test]
    fn limits_are_exact_and_hold_while_reading() {
        let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(Json::parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(
            Json::parse(nested(MAX_DEPTH + 1).as_bytes()),
            Err(JsonError::TooDeep)
        );
        // Unfinished: had it been read to its end, it would be a syntax error.
        let endless = "[".repeat(200_000);
        assert_eq!(Json::parse(endless.as_bytes()), Err(JsonError::TooDeep));
        for value in ["1", "[]", "{}", "null", "\"x\""] {
            let list = |n: usize| format!("[{}]", vec![value; n].join(","));
            assert!(Json::parse(list(MAX_VALUES).as_bytes()).is_ok());
            assert_eq!(
                Json::parse(list(MAX_VALUES + 1).as_bytes()),
                Err(JsonError::TooManyValues)
            );
        }
    }

    #[test]
    fn a_number_that_is_none_is_null_outside_of_strings() {
        let mended = |text: &str| {
            let mended = nan_as_null(text.as_bytes())?;
            Some(String::from_utf8(mended).unwrap())
        };
        assert_eq!(
            mended(r#"{"NaN":NaN,"b":[-Infinity, nan],"c":"\\\"NaN","d":-nan}"#).as_deref(),
            Some(r#"{"NaN":null,"b":[null, null],"c":"\\\"NaN","d":null}"#)
        );
        for text in ["NaN", "Infinity", "inf", "-inf"] {
            assert_eq!(mended(text).as_deref(), Some("null"), "{text}");
        }
        for text in [
            "",
            "--nan",
            "nano",
            "1nan",
            "\"nan",
            "\"\\\"nan",
            "{\"a\":1}",
            "-",
        ] {
            assert_eq!(mended(text), None, "{text}");
        }
    }

    #[test]
    fn a_path_is_neither_empty_nor_endless() {
        for text in ["", ".", "a.", "a..b", "a.b.c.d.e.f.g.h.i"] {
            assert_eq!(Path::new(text), None, "{text}");
        }
    }
}
