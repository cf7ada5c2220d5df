//! Names of things on the wire, each a type of its own with one spelling.
//!
//! Reads and writes them; never makes randomness or asks a clock: whoever makes an id brings the bytes and the time.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::key::{PublicKey, read_hex, write_hex};
use crate::limits::INTEGER_MAX;

/// A text that is no id of the kind that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdError(&'static str);

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not {}", self.0)
    }
}

impl std::error::Error for IdError {}

/// Gives an id with `Display` and `FromStr` its place in JSON.
macro_rules! id_in_json {
    ($name:ident, $pattern:expr, $is:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": $is })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$meta:meta])* $name:ident, $bytes:literal, $is:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Returns the one with these bytes; the caller brings randomness.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// Returns the bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                read_hex(text).map(Self).ok_or(IdError($is))
            }
        }

        id_in_json!($name, format!("^[0-9a-f]{{{}}}$", 2 * $bytes), $is);
    };
}

hex_id!(
    /// The life of a device at a server: random, given by the server at enrolment. Counters count within it.
    Incarnation, 16, "an incarnation: 32 lower-case hexadecimal digits"
);
hex_id!(
    /// A start of the daemon: random, made by it.
    StartId, 8, "a start's id: 16 lower-case hexadecimal digits"
);
hex_id!(
    /// A question's mark, which its answer bears: random, made by the device anew for each message.
    Nonce, 16, "a nonce: 32 lower-case hexadecimal digits"
);

/// Bytes of an id that is a UUID.
const UUID_BYTES: usize = 16;
/// Where its text has hyphens: before these bytes.
const HYPHENS_BEFORE: [usize; 4] = [4, 6, 8, 10];

macro_rules! uuid_id {
    ($(#[$meta:meta])* $name:ident, $prefix:literal, $is:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; UUID_BYTES]);

        impl $name {
            /// What its text begins with.
            pub const PREFIX: &str = $prefix;

            /// Makes an id of the time in milliseconds since 1970 and of randomness: a UUID of version 7, so that later
            /// ids sort after earlier ones.
            #[must_use]
            pub const fn new(unix_ms: u64, random: [u8; 10]) -> Self {
                Self(uuid_v7(unix_ms, random))
            }

            /// Returns the bytes of the UUID.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; UUID_BYTES] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                write_uuid(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix($prefix).and_then(read_uuid).map(Self).ok_or(IdError($is))
            }
        }

        id_in_json!(
            $name,
            concat!("^", $prefix, "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"),
            $is
        );
    };
}

uuid_id!(
    /// A fleet server: made once, with its data.
    ServerId, "srv-", "a server's id: `srv-` and a UUID in lower case"
);
uuid_id!(
    /// A rollout.
    RolloutId, "rol-", "a rollout's id: `rol-` and a UUID in lower case"
);
uuid_id!(
    /// An enrolment token.
    TokenId, "tok-", "a token's id: `tok-` and a UUID in lower case"
);

const fn uuid_v7(unix_ms: u64, random: [u8; 10]) -> [u8; UUID_BYTES] {
    let time = unix_ms.to_be_bytes();
    let r = random;
    [
        time[2],
        time[3],
        time[4],
        time[5],
        time[6],
        time[7],
        0x70 | r[0] & 0x0f,
        r[1],
        0x80 | r[2] & 0x3f,
        r[3],
        r[4],
        r[5],
        r[6],
        r[7],
        r[8],
        r[9],
    ]
}

fn write_uuid(bytes: &[u8; UUID_BYTES], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        if HYPHENS_BEFORE.contains(&at) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

/// Any UUID in lower case is read: which version made it is the server's affair.
fn read_uuid(text: &str) -> Option<[u8; UUID_BYTES]> {
    let is_hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    if text.len() != 36 || text.bytes().enumerate().any(|(at, byte)| (byte == b'-') != is_hyphen(at)) {
        return None;
    }
    read_hex(&text.replace('-', ""))
}

/// Crockford's digits: no i, l, o, u, which are misread or make words.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Digits of 128 bits at five bits each.
const DEVICE_DIGITS: usize = 26;

/// A device: `d` and 26 digits. A function of its public key, so that nobody has to be asked which key it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId([u8; 16]);

impl DeviceId {
    /// Returns the id of the device with this key: the first half of the key's SHA-256.
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// Returns the bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the id with these bytes, as a database keeps it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes as one number, its highest digit first.
        let number = u128::from_be_bytes(self.0);
        let digit = |at: usize| char::from(DIGITS[(number >> (5 * (DEVICE_DIGITS - 1 - at)) & 31) as usize]);
        let text: String = std::iter::once('d').chain((0..DEVICE_DIGITS).map(digit)).collect();
        f.pad(&text)
    }
}

impl FromStr for DeviceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = IdError("a device's id: `d` and 26 digits of Crockford's base32 in lower case");
        let digits = text.strip_prefix('d').filter(|digits| digits.len() == DEVICE_DIGITS).ok_or(error)?;
        let mut number = 0_u128;
        for byte in digits.bytes() {
            let digit = DIGITS.iter().position(|digit| *digit == byte).ok_or(error)?;
            // 26 digits are 130 bits: the first one may use three of its five.
            if number >> (128 - 5) != 0 {
                return Err(error);
            }
            number = number << 5 | digit as u128;
        }
        Ok(Self(number.to_be_bytes()))
    }
}

id_in_json!(
    DeviceId,
    "^d[0-7][0-9abcdefghjkmnpqrstvwxyz]{25}$",
    "A device's id: `d`, and the first 16 bytes of the SHA-256 of its public key in Crockford's base32."
);

/// Number of a message within an incarnation: strictly rising, with gaps, from 1 to [`INTEGER_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Counter(u64);

impl Counter {
    /// The first one.
    pub const FIRST: Self = Self(1);

    /// Takes a number.
    ///
    /// *Errors*: it is 0 or above [`INTEGER_MAX`].
    pub const fn new(number: u64) -> Result<Self, IdError> {
        if number == 0 || number > INTEGER_MAX {
            return Err(IdError("a counter: a number from 1 to 2^53 - 1"));
        }
        Ok(Self(number))
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the next one; none after the last, which a million messages a second reach after 285 years.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        Self::new(self.0 + 1).ok()
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Counter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Counter {
    fn schema_name() -> Cow<'static, str> {
        "Counter".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": INTEGER_MAX })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_id_has_one_spelling(bytes: [u8; 16], random: [u8; 10], time in 0_u64..1 << 48, text in ".{0,60}") {
            let device = DeviceId::from_bytes(bytes);
            prop_assert_eq!(device.to_string().parse(), Ok(device));
            prop_assert!(device.to_string().to_uppercase().parse::<DeviceId>().is_err());
            let rollout = RolloutId::new(time, random);
            prop_assert_eq!(rollout.to_string().parse(), Ok(rollout));
            prop_assert!(rollout.to_string().parse::<TokenId>().is_err());
            prop_assert!(rollout.to_string().parse::<Nonce>().is_err());
            let nonce = Nonce::from_bytes(bytes);
            prop_assert_eq!(nonce.to_string().parse(), Ok(nonce));
            if let Ok(id) = text.parse::<DeviceId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn later_ids_of_a_server_sort_after_earlier_ones(time in 0_u64..(1 << 48) - 1, a: [u8; 10], b: [u8; 10]) {
            let (earlier, later) = (RolloutId::new(time, a), RolloutId::new(time + 1, b));
            prop_assert!(earlier < later && earlier.to_string() < later.to_string());
        }
    }

    #[test]
    fn a_uuid_says_that_it_is_of_version_7() {
        let id = ServerId::new(0x0190_0000_0001, [0xff; 10]);
        assert_eq!(id.to_string(), "srv-01900000-0001-7fff-bfff-ffffffffffff");
        for wrong in
            ["srv-", "srv-019000000001-7fff-bfff-ffffffffffff-", "srv-01900000-0001-7FFF-bfff-ffffffffffff"]
        {
            assert!(wrong.parse::<ServerId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_id_beyond_128_bits_is_none() {
        assert_eq!(format!("d7{}", "z".repeat(25)).parse(), Ok(DeviceId::from_bytes([0xff; 16])));
        assert!(format!("d8{}", "0".repeat(25)).parse::<DeviceId>().is_err());
        assert!(format!("d0{}", "u".repeat(25)).parse::<DeviceId>().is_err());
    }

    #[test]
    fn counters_stay_within_what_every_language_holds() {
        assert!(serde_json::from_str::<Counter>("0").is_err());
        assert!(serde_json::from_str::<Counter>("9007199254740992").is_err());
        let last: Counter = serde_json::from_str("9007199254740991").unwrap();
        assert_eq!((last.get(), last.next()), (INTEGER_MAX, None));
    }
}
