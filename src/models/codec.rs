//! The byte form of models: little-endian numbers, every length checked before memory is taken.

use super::CodecError;

/// Appends values to a buffer. Equal values give equal bytes.
#[derive(Default)]
pub(super) struct Encoder(pub Vec<u8>);

impl Encoder {
    pub fn u8(&mut self, v: u8) {
        self.0.push(v);
    }

    pub fn u16(&mut self, v: u16) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn u32(&mut self, v: u32) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn i64(&mut self, v: i64) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn f32(&mut self, v: f32) {
        self.0.extend(v.to_le_bytes());
    }

    pub fn f64(&mut self, v: f64) {
        self.0.extend(v.to_le_bytes());
    }

    /// A length (at most 2^32 - 1, as every limit is far below) before the items themselves.
    pub fn len(&mut self, n: usize) {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX));
    }

    pub fn f64s(&mut self, values: &[f64]) {
        self.len(values.len());
        values.iter().for_each(|&v| self.f64(v));
    }

    pub fn str(&mut self, s: &str) {
        self.len(s.len());
        self.0.extend(s.as_bytes());
    }
}

/// Takes values off the front of a slice.
pub(super) struct Decoder<'a>(pub &'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self
            .0
            .split_at_checked(n)
            .ok_or(CodecError::Malformed("ends early"))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, CodecError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A finite number.
    pub fn f32(&mut self) -> Result<f32, CodecError> {
        let v = f32::from_le_bytes(self.array()?);
        v.is_finite()
            .then_some(v)
            .ok_or(CodecError::Malformed("a number is not finite"))
    }

    /// A finite number.
    pub fn f64(&mut self) -> Result<f64, CodecError> {
        let v = f64::from_le_bytes(self.array()?);
        v.is_finite()
            .then_some(v)
            .ok_or(CodecError::Malformed("a number is not finite"))
    }

    /// A length of at most `limit` items, each of which takes at least `item_bytes` of what is left.
    pub fn len(&mut self, limit: usize, item_bytes: usize) -> Result<usize, CodecError> {
        let n = self.u32()? as usize;
        if n > limit || n.saturating_mul(item_bytes) > self.0.len() {
            return Err(CodecError::Malformed("a length is beyond its limit"));
        }
        Ok(n)
    }

    pub fn f64s(&mut self, limit: usize) -> Result<Vec<f64>, CodecError> {
        let n = self.len(limit, 8)?;
        (0..n).map(|_| self.f64()).collect()
    }

    pub fn str(&mut self, limit: usize) -> Result<String, CodecError> {
        let n = self.len(limit, 1)?;
        let text = std::str::from_utf8(self.take(n)?);
        Ok(text
            .map_err(|_| CodecError::Malformed("a name is not UTF-8"))?
            .to_owned())
    }
}
