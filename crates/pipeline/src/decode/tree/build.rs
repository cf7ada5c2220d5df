//! From what the parsers of JSON and CBOR report to a tree.
//!
//! Borrows texts where the parser can lend them; accepts every type, so that no error ever quotes a payload. Never
//! reserves memory for a length that a peer merely announces.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::Tree;

/// A text that may be borrowed from a payload.
pub(in crate::decode) trait PayloadText<'p>: Sized {
    fn borrowed(text: &'p str) -> Self;
    fn owned(text: String) -> Self;
}

impl<'p> PayloadText<'p> for Cow<'p, str> {
    fn borrowed(text: &'p str) -> Self {
        Cow::Borrowed(text)
    }

    fn owned(text: String) -> Self {
        Cow::Owned(text)
    }
}

impl PayloadText<'_> for String {
    fn borrowed(text: &str) -> Self {
        text.to_owned()
    }

    fn owned(text: String) -> Self {
        text
    }
}

impl<'de, T: PayloadText<'de>> Deserialize<'de> for Tree<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor(PhantomData))
    }
}

struct TreeVisitor<T>(PhantomData<T>);

impl<'de, T: PayloadText<'de>> Visitor<'de> for TreeVisitor<T> {
    type Value = Tree<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Tree<T>, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Tree<T>, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree<T>, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Tree<T>, E> {
        Ok(Tree::Truth(truth))
    }

    fn visit_i64<E: Error>(self, whole: i64) -> Result<Tree<T>, E> {
        Ok(Tree::Integer(whole))
    }

    fn visit_u64<E: Error>(self, whole: u64) -> Result<Tree<T>, E> {
        Ok(i64::try_from(whole).map_or(Tree::Float(whole as f64), Tree::Integer))
    }

    fn visit_i128<E: Error>(self, whole: i128) -> Result<Tree<T>, E> {
        Ok(i64::try_from(whole).map_or(Tree::Float(whole as f64), Tree::Integer))
    }

    fn visit_u128<E: Error>(self, whole: u128) -> Result<Tree<T>, E> {
        Ok(i64::try_from(whole).map_or(Tree::Float(whole as f64), Tree::Integer))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Tree<T>, E> {
        Ok(Tree::Float(number))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Tree<T>, E> {
        Ok(Tree::Text(T::borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Tree<T>, E> {
        Ok(Tree::Text(T::owned(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Tree<T>, E> {
        Ok(Tree::Text(T::owned(text)))
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Tree<T>, E> {
        Ok(Tree::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree<T>, A::Error> {
        let mut map = Vec::new();
        while let Some(Key(key)) = entries.next_key()? {
            let value = entries.next_value()?;
            if let Some(key) = key {
                map.push((key, value));
            }
        }
        Ok(Tree::Map(map))
    }

    /// A CBOR tag comes as an enum of tag number and content.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Tree<T>, A::Error> {
        let (_, content) = tagged.variant::<IgnoredAny>()?;
        content.tuple_variant(2, TagVisitor(PhantomData))
    }
}

struct TagVisitor<T>(PhantomData<T>);

impl<'de, T: PayloadText<'de>> Visitor<'de> for TagVisitor<T> {
    type Value = Tree<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tag and its content")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Tree<T>, A::Error> {
        let tag: Option<u64> = parts.next_element()?;
        let content: Option<Tree<T>> = parts.next_element()?;
        Ok(match (tag, content) {
            (Some(0 | 1), Some(content)) => Tree::Instant(Box::new(content)),
            _ => Tree::Other,
        })
    }
}

/// A map's key: a text, or a whole number as its decimal text; `None` for anything else.
struct Key<T>(Option<T>);

impl<'de, T: PayloadText<'de>> Deserialize<'de> for Key<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor(PhantomData)).map(Key)
    }
}

struct KeyVisitor<T>(PhantomData<T>);

impl<'de, T: PayloadText<'de>> Visitor<'de> for KeyVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Option<T>, E> {
        Ok(Some(T::borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<T>, E> {
        Ok(Some(T::owned(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Option<T>, E> {
        Ok(Some(T::owned(text)))
    }

    fn visit_u64<E: Error>(self, whole: u64) -> Result<Option<T>, E> {
        Ok(Some(T::owned(whole.to_string())))
    }

    fn visit_i64<E: Error>(self, whole: i64) -> Result<Option<T>, E> {
        Ok(Some(T::owned(whole.to_string())))
    }

    fn visit_i128<E: Error>(self, whole: i128) -> Result<Option<T>, E> {
        Ok(Some(T::owned(whole.to_string())))
    }

    fn visit_u128<E: Error>(self, whole: u128) -> Result<Option<T>, E> {
        Ok(Some(T::owned(whole.to_string())))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_none<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Option<T>, A::Error> {
        TreeVisitor::<T>(PhantomData).visit_seq(items).map(|_| None)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Option<T>, A::Error> {
        TreeVisitor::<T>(PhantomData).visit_map(entries).map(|_| None)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Option<T>, A::Error> {
        TreeVisitor::<T>(PhantomData).visit_enum(tagged).map(|_| None)
    }
}
