//! Enums that never fail to decode: servers are newer than this crate.

/// Declares an enum of the wire, with a catch-all for values that this crate does not know.
macro_rules! open_enum {
    (
        $(#[$attribute:meta])*
        $name:ident {
            $($(#[$variant_attribute:meta])* $variant:ident = $value:literal,)*
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(
                $(#[$variant_attribute])*
                #[doc = concat!("`", $value, "`")]
                $variant,
            )*
            /// A value that this version of the crate does not know, as the server sent it.
            Unrecognized(String),
        }

        impl $name {
            /// The value as on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $value,)*
                    Self::Unrecognized(value) => value,
                }
            }
        }

        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                match value {
                    $($value => Self::$variant,)*
                    _ => Self::Unrecognized(value.to_owned()),
                }
            }
        }

        impl Default for $name {
            /// What a record holds when the server sent nothing: `Unrecognized` and empty.
            fn default() -> Self {
                Self::Unrecognized(String::new())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::wire::text(deserializer, |value| Self::from(value))
            }
        }

        impl crate::wire::ToWire for $name {
            fn to_wire(&self) -> serde_json::Value {
                serde_json::Value::from(self.as_str())
            }
        }
    };
}

pub(crate) use open_enum;
