use std::time::SystemTime;

use serde::{Serialize, Serializer};

/// What the disks of a VM held at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// What its type knows it by; no other snapshot has it.
    pub id: String,
    /// The name that it was given. No other snapshot of the VM has it, unless somebody else made it.
    pub name: String,
    /// When it was made. As JSON: seconds since 1970.
    #[serde(serialize_with = "seconds")]
    pub created: SystemTime,
}

impl Snapshot {
    /// Describes a snapshot.
    pub fn new(id: impl Into<String>, name: impl Into<String>, created: SystemTime) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            created,
        }
    }
}

fn seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    serializer.serialize_u64(since.map_or(0, |since| since.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_snapshot_is_written_with_its_time_in_seconds() {
        let created = SystemTime::UNIX_EPOCH + Duration::from_millis(7_500);
        let snapshot = Snapshot::new("u-1", "before", created);
        assert_eq!(
            serde_json::to_string(&snapshot).unwrap(),
            r#"{"id":"u-1","name":"before","created":7}"#
        );
    }
}
