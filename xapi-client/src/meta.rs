//! Static tables of the API: every class, field, message, enum and error code.
//!
//! A simulator or a generic tool reads these instead of carrying its own copy of the datamodel.
//! The tables hold what the server knows, so unlike the typed API they also contain removed
//! messages (a server answers those with `MESSAGE_REMOVED`) and internal ones.

pub use crate::generated::meta::{CLASSES, ENUMS, ERRORS, VERSIONS};

/// A class of the datamodel, `VM` for example.
#[derive(Debug)]
pub struct Class {
    /// The name as in message names, `VM`.
    pub name: &'static str,
    /// The name as in events, `vm`.
    pub event_name: &'static str,
    /// Whether `event.from` with `*` covers this class.
    pub events: bool,
    /// Whether its objects are rows of the database.
    pub in_database: bool,
    /// Whether its objects outlive a restart of the server.
    pub persist: bool,
    /// Its place in the life cycle of the API.
    pub state: State,
    /// Releases of XCP-ng ("8.2", "8.3") whose datamodel lacks it.
    pub absent_in_xcpng: &'static [&'static str],
    /// Fields in the order of the datamodel, internal ones included.
    pub fields: &'static [Field],
    /// Messages in the order of the datamodel, implicit and removed ones included.
    pub messages: &'static [Message],
    /// The keys that `<class>.create` reads from its struct, with whether each is required.
    pub constructor_fields: &'static [(&'static str, bool)],
}

/// A field of a class.
#[derive(Debug)]
pub struct Field {
    /// The name as in records and message names, `memory_static_max`.
    pub name: &'static str,
    /// The column in the database, `memory__static_max`: what `get_all_records_where` and
    /// `MAP_DUPLICATE_KEY` use.
    pub column: &'static str,
    /// The type.
    pub ty: Type,
    /// Who may write it.
    pub qualifier: Qualifier,
    /// The default as JSON text, where the datamodel has one.
    pub default: Option<&'static str>,
    /// Its place in the life cycle of the API.
    pub state: State,
    /// Whether it is only visible inside the server, never in a record.
    pub internal: bool,
    /// Whether its value outlives a restart of the server.
    pub persist: bool,
    /// The lowest role that may read it.
    pub min_role_get: &'static str,
    /// The lowest role that may write it, where clients may write it.
    pub min_role_set: Option<&'static str>,
    /// Keys of a map field with a lowest role of their own; a key may end in `*`.
    pub map_keys_min_role: &'static [(&'static str, &'static str)],
    /// The other side of a relation, as `(class, field)`: for `VM.VBDs` it is `("VBD", "VM")`.
    pub relation: Option<(&'static str, &'static str)>,
    /// Releases of XCP-ng whose datamodel lacks it.
    pub absent_in_xcpng: &'static [&'static str],
}

/// A message (method) of a class.
#[derive(Debug)]
pub struct Message {
    /// The name without the class, `clone`.
    pub name: &'static str,
    /// The name on the wire, `VM.clone`.
    pub wire_name: &'static str,
    /// Which generator of the server made it, or `Custom`.
    pub kind: Kind,
    /// The field it acts on, for the `Field*` kinds.
    pub field: Option<&'static str>,
    /// Parameters in order, the session excluded.
    pub params: &'static [Param],
    /// The type of the result.
    pub result: Type,
    /// Error codes that the datamodel declares; any message may raise others.
    pub errors: &'static [&'static str],
    /// Whether `Async.<wire_name>` exists.
    pub has_async: bool,
    /// Whether the first parameter on the wire is a session reference.
    pub needs_session: bool,
    /// The lowest role that may call it.
    pub min_role: &'static str,
    /// Its place in the life cycle of the API.
    pub state: State,
    /// The release that published it, where known.
    pub since: Option<&'static str>,
    /// Whether only hosts of the pool may call it.
    pub pool_internal: bool,
    /// Whether the published documentation leaves it out (`get_all_records_where` for example).
    pub hidden: bool,
    /// Releases of XCP-ng whose datamodel lacks it.
    pub absent_in_xcpng: &'static [&'static str],
    /// Names of trailing parameters (session excluded) that a release of XCP-ng does not take, as
    /// `(release, number of parameters there)`.
    pub param_count_in_xcpng: &'static [(&'static str, usize)],
}

/// A parameter of a message.
#[derive(Debug)]
pub struct Param {
    /// The name in the datamodel; on the wire parameters have positions only.
    pub name: &'static str,
    /// The type.
    pub ty: Type,
    /// The default as JSON text: a trailing parameter with one may be left out.
    pub default: Option<&'static str>,
}

/// A type of the datamodel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// No value.
    Void,
    /// Text.
    String,
    /// Text that must not be logged.
    SecretString,
    /// A 64-bit signed integer.
    Int,
    /// A double.
    Float,
    /// A truth value.
    Bool,
    /// A point in time.
    DateTime,
    /// A value of the named enum.
    Enum(&'static str),
    /// A reference to an object of the named class.
    Ref(&'static str),
    /// The record of an object of the named class.
    Record(&'static str),
    /// A list; despite the name the server keeps order and duplicates.
    Set(&'static Type),
    /// A map.
    Map(&'static Type, &'static Type),
    /// A value that may be left out.
    Option(&'static Type),
    /// The result of `event.from`.
    EventBatch,
}

/// Who may write a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qualifier {
    /// Clients, at any time.
    ReadWrite,
    /// Clients, when the object is created.
    Constructor,
    /// The server alone.
    Runtime,
}

/// The place of an item in the life cycle of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// May change or vanish.
    Prototyped,
    /// Part of the API.
    Published,
    /// Still works, is going to be removed.
    Deprecated,
    /// Gone.
    Removed,
}

/// Which generator of the server made a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the names say it; the datamodel has no more to tell"
)]
pub enum Kind {
    FieldGet,
    FieldSet,
    FieldAdd,
    FieldRemove,
    GetByUuid,
    GetByNameLabel,
    GetRecord,
    GetAll,
    GetAllWhere,
    GetAllRecords,
    GetAllRecordsWhere,
    Constructor,
    Destructor,
    Custom,
}

/// An enum of the datamodel.
#[derive(Debug)]
pub struct Enum {
    /// The name, `vm_power_state`.
    pub name: &'static str,
    /// The values as on the wire.
    pub values: &'static [&'static str],
}

/// An error code of the datamodel.
#[derive(Debug)]
pub struct ErrorInfo {
    /// The code, `VM_BAD_POWER_STATE`.
    pub code: &'static str,
    /// The names of its parameters; `None` where the datamodel does not list the code.
    pub params: Option<&'static [&'static str]>,
}

/// A release that life cycle entries (`since`, for example) can name.
#[derive(Debug)]
pub struct Version {
    /// The code name (`rio`) of a named release, or the number (`25.8.0`) of a later one.
    pub name: &'static str,
    /// The version of the API, `(2, 15)`; numbered releases do not tell theirs.
    pub api_version: Option<(u32, u32)>,
    /// The product that shipped it, for named releases.
    pub branding: Option<&'static str>,
}

/// The class with this exact name.
#[must_use]
pub fn class(name: &str) -> Option<&'static Class> {
    CLASSES.iter().find(|class| class.name == name)
}

impl Class {
    /// The field with this exact name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The message with this exact name (without the class).
    #[must_use]
    pub fn message(&self, name: &str) -> Option<&'static Message> {
        self.messages.iter().find(|message| message.name == name)
    }
}
