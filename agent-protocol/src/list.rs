//! Lists and maps of bounded length.
//!
//! Reading stops at the first element too many, before memory is taken for it; a name that stands twice in a map is
//! refused, since two readers would take different ones.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::LABELS_MAX;
use crate::text::Name;

/// Tells whether a member is as a reader takes it where it is left out.
pub(crate) fn is_default<T: Default + PartialEq>(member: &T) -> bool {
    *member == T::default()
}

/// A list of at most `MAX` elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(Vec<T>);

/// More elements than a list or map may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany(pub usize);

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {} elements", self.0)
    }
}

impl std::error::Error for TooMany {}

impl<T, const MAX: usize> List<T, MAX> {
    /// Returns an empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Takes the first `MAX` elements and drops the rest: for the side that writes, where the first count most.
    #[must_use]
    pub fn first_of(elements: impl IntoIterator<Item = T>) -> Self {
        Self(elements.into_iter().take(MAX).collect())
    }

    /// Adds an element.
    ///
    /// *Errors*: the list is full.
    pub fn push(&mut self, element: T) -> Result<(), TooMany> {
        if self.0.len() >= MAX {
            return Err(TooMany(MAX));
        }
        self.0.push(element);
        Ok(())
    }

    /// Gives the elements away.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const MAX: usize> TryFrom<Vec<T>> for List<T, MAX> {
    type Error = TooMany;

    fn try_from(elements: Vec<T>) -> Result<Self, TooMany> {
        if elements.len() > MAX { Err(TooMany(MAX)) } else { Ok(Self(elements)) }
    }
}

impl<T, const MAX: usize> IntoIterator for List<T, MAX> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T, const MAX: usize> IntoIterator for &'a List<T, MAX> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    if elements.len() == MAX {
                        return Err(serde::de::Error::custom(TooMany(MAX)));
                    }
                    elements.push(element);
                }
                Ok(elements)
            }
        }

        deserializer.deserialize_seq(Elements::<T, MAX>(PhantomData)).map(Self)
    }
}

impl<T: JsonSchema, const MAX: usize> JsonSchema for List<T, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("List{MAX}Of{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "maxItems": MAX, "items": generator.subschema_for::<T>() })
    }
}

/// Texts by name, at most `MAX`; in order of the names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Map<const MAX: usize>(BTreeMap<Name, Name>);

/// The labels of a device.
pub type Labels = Map<LABELS_MAX>;

impl<const MAX: usize> Map<MAX> {
    /// Sets the text of a name.
    ///
    /// *Errors*: the map is full and does not hold the name.
    pub fn insert(&mut self, name: Name, text: Name) -> Result<(), TooMany> {
        if self.0.len() >= MAX && !self.0.contains_key(&name) {
            return Err(TooMany(MAX));
        }
        self.0.insert(name, text);
        Ok(())
    }
}

impl<const MAX: usize> Deref for Map<MAX> {
    type Target = BTreeMap<Name, Name>;

    fn deref(&self) -> &BTreeMap<Name, Name> {
        &self.0
    }
}

impl<const MAX: usize> TryFrom<BTreeMap<Name, Name>> for Map<MAX> {
    type Error = TooMany;

    fn try_from(texts: BTreeMap<Name, Name>) -> Result<Self, TooMany> {
        if texts.len() > MAX { Err(TooMany(MAX)) } else { Ok(Self(texts)) }
    }
}

impl<const MAX: usize> Serialize for Map<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Map<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<const MAX: usize>;

        impl<'de, const MAX: usize> Visitor<'de> for Members<MAX> {
            type Value = Map<MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of at most {MAX} texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Map<MAX>, A::Error> {
                use serde::de::Error;
                let mut texts = Map::default();
                while let Some((name, text)) = map.next_entry::<Name, Name>()? {
                    if texts.contains_key(&name) {
                        return Err(A::Error::custom(format!("`{name}` stands twice")));
                    }
                    texts.insert(name, text).map_err(A::Error::custom)?;
                }
                Ok(texts)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

impl<const MAX: usize> JsonSchema for Map<MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("Map{MAX}").into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "maxProperties": MAX,
            "additionalProperties": generator.subschema_for::<Name>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_at_its_limit() {
        assert_eq!(*serde_json::from_str::<List<u8, 2>>("[1,2]").unwrap(), [1, 2]);
        assert!(serde_json::from_str::<List<u8, 2>>("[1,2,3]").is_err());
        assert_eq!(*List::<u8, 2>::first_of([1, 2, 3]), [1, 2]);
        assert_eq!(List::<u8, 1>::try_from(vec![1, 2]), Err(TooMany(1)));
    }

    #[test]
    fn a_name_that_stands_twice_or_is_one_too_many_is_refused() {
        assert_eq!(serde_json::from_str::<Map<1>>("{\"a\":\"b\"}").unwrap().len(), 1);
        assert!(serde_json::from_str::<Map<2>>("{\"a\":\"b\",\"a\":\"b\"}").is_err());
        assert!(serde_json::from_str::<Map<1>>("{\"a\":\"b\",\"c\":\"d\"}").is_err());
    }
}
