//! A name in the cluster: any bytes that are not too many.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most bytes of a name.
pub const NAME_LEN_MAX: usize = 1024;

/// How many bytes lie in the name itself: as many as make it no larger than three words.
const SHORT_LEN_MAX: usize = 22;

/// A name: 1 to [`NAME_LEN_MAX`] bytes, often text. Ordered by its bytes. Cheap to clone.
///
/// A directory and each node's table of names compare names all the time: short ones lie where they are looked at.
#[derive(Clone)]
pub struct Name(Bytes);

#[derive(Clone)]
enum Bytes {
    Short { len: u8, bytes: [u8; SHORT_LEN_MAX] },
    Long(Arc<[u8]>),
}

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
            len @ 1..=SHORT_LEN_MAX => {
                let mut bytes = [0; SHORT_LEN_MAX];
                bytes[..len].copy_from_slice(name);
                Ok(Self(Bytes::Short { len: len as u8, bytes }))
            }
            1..=NAME_LEN_MAX => Ok(Self(Bytes::Long(name.into()))),
            len => Err(NameLenError(len)),
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Short { len, bytes } => &bytes[..usize::from(*len)],
            Bytes::Long(bytes) => bytes,
        }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_bytes::Bytes::new(self.as_bytes()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(NameVisitor)
    }
}

/// Takes the bytes from where they lie in what is decoded.
struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a name of 1 to {NAME_LEN_MAX} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Name, E> {
        Name::new(bytes).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Name, E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Name, A::Error> {
        let mut name = Vec::new();
        while let Some(byte) = bytes.next_element::<u8>()? {
            if name.len() >= NAME_LEN_MAX {
                return Err(A::Error::custom(NameLenError(name.len() + 1)));
            }
            name.push(byte);
        }
        self.visit_bytes(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is hashed.
    #[derive(Default)]
    struct Hashed(Vec<u8>);

    impl Hasher for Hashed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }

        fn finish(&self) -> u64 {
            0
        }
    }

    fn hashed(it: impl Hash) -> Vec<u8> {
        let mut hashed = Hashed::default();
        it.hash(&mut hashed);
        hashed.0
    }

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

    #[test]
    fn short_and_long_names_are_ordered_by_their_bytes_alone() {
        assert_eq!(size_of::<Name>(), 24);
        let of = |len: usize| Name::new(vec![b'x'; len]).unwrap();
        let names: Vec<Name> =
            [1, SHORT_LEN_MAX - 1, SHORT_LEN_MAX, SHORT_LEN_MAX + 1, NAME_LEN_MAX].map(of).into();
        assert!(names.is_sorted() && names.windows(2).all(|two| two[0] != two[1]));
        for name in &names {
            assert_eq!(name.as_bytes(), vec![b'x'; name.as_bytes().len()]);
            assert_eq!(hashed(name), hashed(name.as_bytes()), "a map finds it by its bytes");
        }
        assert!(
            Name::new("y").unwrap() > of(NAME_LEN_MAX) && Name::new("a\0").unwrap() > Name::new("a").unwrap()
        );
    }
}
