//! Who may publish: the public keys trusted here, and the check of a signature over raw bytes.

use minisign_verify::{Error, PublicKey, Signature};

/// A manifest is not read beyond this, bytes.
pub const MANIFEST_BYTES: u64 = 64 << 10;
/// Nor a signature, bytes.
pub const SIGNATURE_BYTES: u64 = 4 << 10;

/// The publisher's, put in where a release is built: one for daily use and one kept apart.
const BUILT_IN: Option<&str> = option_env!("NIGHTWATT_UPDATE_KEYS");

/// Public keys whose signatures count.
#[derive(Clone, Debug)]
pub struct Keys(Vec<(String, PublicKey)>);

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is nobody to trust.
    #[error("no public key is known: set [update] public_keys")]
    NoKeys,
    /// The manifest is not one.
    #[error("the manifest is longer than {MANIFEST_BYTES} bytes")]
    Long,
    /// The signature file is none.
    #[error("the signature cannot be read")]
    Unreadable,
    /// Over the bytes instead of their hash.
    #[error("the signature is of minisign's legacy kind; it has to be prehashed")]
    Legacy,
    /// Of another key, or of other bytes.
    #[error("the signature is of none of the trusted keys, or not of this manifest")]
    Untrusted,
}

impl Keys {
    /// The configured keys, else those built in; the error is the one that is no public key.
    pub fn new(configured: &[String]) -> Result<Self, String> {
        let built_in = || BUILT_IN.unwrap_or_default().split_whitespace();
        let texts: Vec<&str> = match configured {
            [] => built_in().collect(),
            keys => keys.iter().map(String::as_str).collect(),
        };
        let key = |text: &str| match PublicKey::from_base64(text) {
            Ok(key) => Ok((text.to_owned(), key)),
            Err(_) => Err(text.to_owned()),
        };
        texts
            .into_iter()
            .map(key)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The public key under which `signature` is one of exactly these bytes.
    pub fn verify(&self, manifest: &[u8], signature: &[u8]) -> Result<&str, SignatureError> {
        if self.is_empty() {
            return Err(SignatureError::NoKeys);
        }
        if manifest.len() as u64 > MANIFEST_BYTES {
            return Err(SignatureError::Long);
        }
        let text = std::str::from_utf8(signature).map_err(|_| SignatureError::Unreadable)?;
        if text.len() as u64 > SIGNATURE_BYTES {
            return Err(SignatureError::Unreadable);
        }
        let signature = Signature::decode(text).map_err(|_| SignatureError::Unreadable)?;
        let mut why = SignatureError::Untrusted;
        for (name, key) in &self.0 {
            match key.verify(manifest, &signature, false) {
                Ok(()) => return Ok(name),
                Err(Error::UnexpectedAlgorithm) => why = SignatureError::Legacy,
                Err(_) => {}
            }
        }
        Err(why)
    }
}
