//! How things on a pool are known as ours: by keys in their `other_config`, and by their name where
//! a call gives no other way to mark a thing as it is made.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bioxen_vm_core::VmId;

const OWNER: &str = "bioxen:owner";
pub(crate) const OWNER_NAME: &str = "bioxen";
pub(crate) const VM_ID: &str = "bioxen:vm-id";
pub(crate) const RUN: &str = "bioxen:run";
/// The own UUID of a VM or a disk: what copies it copies its marks, and the copy is not ours.
const UUID: &str = "bioxen:uuid";
/// The UUID of the VM whose interface it is: what copies a VM copies the marks of its interfaces.
pub(crate) const OF_VM: &str = "bioxen:vm";
/// The UUID of a template that was made by this project.
const TEMPLATE: &str = "bioxen:template";
/// Seconds since 1970: when it counts as left behind where nobody knows its run.
pub(crate) const EXPIRES: &str = "bioxen:expires";

/// What the names of VMs start with that are not complete yet.
const UNFINISHED: &str = "bioxen-unfinished-";
/// What the names of config drives start with.
const DRIVE: &str = "bioxen-config-drive-";
/// What XCP-ng's own front end calls its config drives.
const FOREIGN_DRIVE: &str = "XO CloudConfigDrive";

/// Who makes something, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The run of the program: 16 hex digits.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) expires: u64,
}

impl Run {
    /// Something that is made now.
    pub(crate) fn now(id: &str, expiry: Duration) -> Self {
        Self {
            id: id.to_owned(),
            expires: seconds_now().saturating_add(expiry.as_secs()),
        }
    }

    pub(crate) fn marks(&self, vm: &VmId) -> BTreeMap<String, String> {
        let mut marks = self.marks_of_all();
        marks.insert(VM_ID.to_owned(), vm.as_str().to_owned());
        marks
    }

    /// The marks of what belongs to no VM of its own, as a network.
    pub(crate) fn marks_of_all(&self) -> BTreeMap<String, String> {
        let expires = self.expires.to_string();
        [(OWNER, OWNER_NAME), (RUN, &self.id), (EXPIRES, &expires)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// The marks with that of the VM's own.
    pub(crate) fn own_marks(
        mut marks: BTreeMap<String, String>,
        uuid: &str,
    ) -> BTreeMap<String, String> {
        marks.insert(UUID.to_owned(), uuid.to_owned());
        marks
    }

    /// The name of a VM until it is complete. Nothing else has it.
    pub(crate) fn unfinished(&self, unique: &str, vm: &VmId) -> String {
        format!("{UNFINISHED}{}-{}-{unique}-{vm}", self.id, self.expires)
    }

    /// The name of a config drive. Nothing else has it.
    pub(crate) fn drive(&self, unique: &str) -> String {
        format!("{DRIVE}{}-{}-{unique}", self.id, self.expires)
    }

    /// Whose a VM is, if it is ours: made by us, not a copy of such a one, and not made into a
    /// template by somebody.
    pub(crate) fn of_vm(
        name: &str,
        uuid: &str,
        is_a_template: bool,
        other_config: &BTreeMap<String, String>,
    ) -> Option<Self> {
        if let Some(run) = Self::of_unfinished(name) {
            return Some(run);
        }
        if is_a_template || !is_original(uuid, other_config) {
            return None;
        }
        Self::of(name, other_config)
    }

    /// Whose a disk is, if it is that of a VM of ours, and no copy of such a one.
    pub(crate) fn of_disk(uuid: &str, other_config: &BTreeMap<String, String>) -> Option<Self> {
        Self::of_marked(other_config).filter(|_| is_original(uuid, other_config))
    }

    /// Whose a thing is, if it is ours.
    pub(crate) fn of(name: &str, other_config: &BTreeMap<String, String>) -> Option<Self> {
        if has_owner(other_config) {
            return Self::of_marked(other_config);
        }
        Self::of_unfinished(name).or_else(|| Self::of_drive(name))
    }

    /// Whose a thing is that is marked from the call on that makes it, if it is ours.
    pub(crate) fn of_marked(other_config: &BTreeMap<String, String>) -> Option<Self> {
        let expires = other_config.get(EXPIRES).and_then(|text| text.parse().ok());
        has_owner(other_config).then_some(Self {
            id: other_config.get(RUN)?.clone(),
            // Without the mark it was made by a version that set no time.
            expires: expires.unwrap_or(u64::MAX),
        })
    }

    /// Whose a network is, if it is ours. Its run and its time are tags, `key=value`: whoever may make
    /// a network may change those.
    pub(crate) fn of_network(
        other_config: &BTreeMap<String, String>,
        tags: &[String],
    ) -> Option<Self> {
        let mut marks = other_config.clone();
        let tags = tags.iter().filter_map(|tag| tag.split_once('='));
        marks.extend(tags.map(|(key, value)| (key.to_owned(), value.to_owned())));
        Self::of_marked(&marks)
    }

    /// Whose something is that is only made on the way to something else.
    pub(crate) fn of_unfinished(name: &str) -> Option<Self> {
        Self::named(name.strip_prefix(UNFINISHED)?)
    }

    /// Whose a config drive is.
    pub(crate) fn of_drive(name: &str) -> Option<Self> {
        Self::named(name.strip_prefix(DRIVE)?)
    }

    /// What a name of ours says after its first words: `<16 hex digits>-<seconds>-<more>`. Other
    /// names may begin with the same words.
    fn named(rest: &str) -> Option<Self> {
        let mut parts = rest.splitn(3, '-');
        let (id, expires, unique) = (parts.next()?, parts.next()?, parts.next()?);
        let is_run = id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit());
        (is_run && !unique.is_empty()).then_some(())?;
        Some(Self {
            id: id.to_owned(),
            expires: expires.parse().ok()?,
        })
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.expires <= seconds_now()
    }
}

fn is_original(uuid: &str, other_config: &BTreeMap<String, String>) -> bool {
    other_config.get(UUID).is_some_and(|own| own == uuid)
}

fn has_owner(other_config: &BTreeMap<String, String>) -> bool {
    other_config.get(OWNER).map(String::as_str) == Some(OWNER_NAME)
}

/// Whether something is only made on the way to something else.
pub(crate) fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED)
}

/// Whether a VM was made by this project and is no copy of such a one.
pub(crate) fn is_made_by_us(uuid: &str, other_config: &BTreeMap<String, String>) -> bool {
    let is = |key, wanted: &str| other_config.get(key).is_some_and(|value| value == wanted);
    is(OWNER, OWNER_NAME) && is(UUID, uuid)
}

/// Whether what is ours outlives the program that made it.
pub(crate) fn is_kept(other_config: &BTreeMap<String, String>) -> bool {
    !other_config.contains_key(RUN)
}

/// The mark of a template that was made by this project: its own UUID, so that no VM of it has it.
pub(crate) fn template_mark(uuid: &str) -> (String, String) {
    (TEMPLATE.to_owned(), uuid.to_owned())
}

/// Whether a template was made by this project.
pub(crate) fn is_template_of_ours(uuid: &str, other_config: &BTreeMap<String, String>) -> bool {
    other_config.get(TEMPLATE).is_some_and(|own| own == uuid)
}

/// Whether a key of `other_config` is one of ours.
pub(crate) fn is_ours(key: &str) -> bool {
    key.starts_with("bioxen:")
}

/// Whether a disk holds a config drive, from what can be seen of it without reading it.
pub(crate) fn is_config_drive(name: &str) -> bool {
    name.starts_with(DRIVE) || name == FOREIGN_DRIVE
}

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_or_named_by_a_run_is_known_as_its() {
        let run = Run::now("0123456789abcdef", Duration::from_secs(60));
        let vm = VmId::new("a-b").unwrap();
        assert!(!run.is_expired());
        let found = [
            Run::of("any", &run.marks(&vm)),
            Run::of(&run.unfinished("u", &vm), &BTreeMap::new()),
            Run::of(&run.drive("u"), &BTreeMap::new()),
        ];
        assert_eq!(found, [(); 3].map(|()| Some(run.clone())));
        let foreign = [("bioxen:run".to_owned(), run.id.clone())].into();
        assert_eq!(Run::of("bioxen-a-b", &foreign), None);
        for name in [
            "bioxen-unfinished-",
            "bioxen-unfinished-report-2-final",
            "bioxen-unfinished-0123456789abcdef-7",
            "bioxen-config-drive-0123456789abcdeg-7-u",
            "my bioxen-unfinished-0123456789abcdef-7-u-v",
        ] {
            assert_eq!(Run::of(name, &BTreeMap::new()), None, "{name}");
        }
    }

    #[test]
    fn a_copy_and_what_was_made_a_template_are_not_ours() {
        let run = Run::now("00000000000000aa", Duration::ZERO);
        let vm = VmId::new("v").unwrap();
        let marks = Run::own_marks(run.marks(&vm), "u-1");
        assert_eq!(
            Run::of_vm("bioxen-v", "u-1", false, &marks),
            Some(run.clone())
        );
        assert_eq!(Run::of_vm("copy", "u-2", false, &marks), None);
        assert_eq!(Run::of_vm("bioxen-v", "u-1", true, &marks), None);
        let unfinished = run.unfinished("x", &vm);
        assert_eq!(Run::of_vm(&unfinished, "u-3", true, &marks), Some(run));
    }

    #[test]
    fn what_has_no_time_never_expires_and_the_past_has() {
        let mut marks = Run::now("r", Duration::ZERO).marks(&VmId::new("v").unwrap());
        assert!(Run::of("", &marks).unwrap().is_expired());
        marks.remove(EXPIRES);
        assert!(!Run::of("", &marks).unwrap().is_expired());
    }

    #[test]
    fn config_drives_are_known_by_their_names() {
        assert!(is_config_drive("XO CloudConfigDrive"));
        assert!(is_config_drive(&Run::now("r", Duration::ZERO).drive("u")));
        assert!(!is_config_drive("root"));
    }
}
