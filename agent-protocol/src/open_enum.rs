//! Enumerations that take values from the future.
//!
//! Makes the type alone; what an unknown value means is the reader's to decide, and it is written as it was read.

/// Defines an enumeration that is a text on the wire, with an arm for values that this build does not know.
macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$arm_meta:meta])* $arm:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$arm_meta])* $arm,)+
            /// A value that this build does not know.
            Other($crate::text::Code),
        }

        impl $name {
            /// The values that this build knows.
            pub const KNOWN: &[Self] = &[$(Self::$arm),+];

            /// Returns the value's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$arm => $text,)+
                    Self::Other(text) => text.as_str(),
                }
            }
        }

        impl From<$crate::text::Code> for $name {
            fn from(text: $crate::text::Code) -> Self {
                match text.as_str() {
                    $($text => Self::$arm,)+
                    _ => Self::Other(text),
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::text::TextError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::text::Code::new(text).map(Self::from)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::text::Code::deserialize(deserializer).map(Self::from)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "maxLength": $crate::limits::CODE_BYTES_MAX,
                    "examples": [$($text),+],
                    "description": "One of the examples; later versions add others.",
                })
            }
        }
    };
}

pub(crate) use open_enum;
