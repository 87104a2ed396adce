//! A name in the cluster: any bytes that are not too many.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most bytes of a name.
pub const NAME_LEN_MAX: usize = 1024;

/// A name: 1 to [`NAME_LEN_MAX`] bytes, often text. Ordered by its bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

/// A name is empty or too long. Nothing changed; choose another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to {NAME_LEN_MAX} bytes, this one has {0}")]
pub struct NameLenError(pub usize);

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// It is empty, or longer than [`NAME_LEN_MAX`] bytes.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self, NameLenError> {
        let name = name.as_ref();
        match name.len() {
            1..=NAME_LEN_MAX => Ok(Self(name.into())),
            len => Err(NameLenError(len)),
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::Bytes::new(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = serde_bytes::ByteBuf::deserialize(deserializer)?;
        Self::new(bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_bytes_and_not_too_many() {
        assert_eq!(Name::new("").unwrap_err(), NameLenError(0));
        assert_eq!(Name::new([7; NAME_LEN_MAX + 1]).unwrap_err(), NameLenError(NAME_LEN_MAX + 1));
        let name = Name::new([b'a', 0, 0xff]).unwrap();
        assert_eq!(name.to_string(), "a\\x00\\xff");
        let bytes = bincode::serialize(&name).unwrap();
        assert_eq!(bincode::deserialize::<Name>(&bytes).unwrap(), name);
        assert!(bincode::deserialize::<Name>(&bincode::serialize(&vec![0_u8; 0]).unwrap()).is_err());
    }
}
