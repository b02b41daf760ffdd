//! The users of a guest: those of the machine's system, and one to log in as.

/// The user that logs in to guests with a file system of their own.
pub(super) const USER: &str = "bioxen";
/// Its home directory.
pub(super) const HOME: &str = "home/bioxen";
/// Its user and group number inside the guest.
pub(super) const ID: u32 = 1000;

/// The highest number of an account that belongs to the system; people come after it.
const LAST_SYSTEM_ID: u32 = 999;
/// The account for what belongs to nobody is part of the system in spite of its number.
const NOBODY: u32 = 65534;

/// The account files of a guest, named as in `/etc`, with their modes.
pub(super) fn files(passwd: &str, group: &str) -> [(&'static str, String, u32); 4] {
    [
        ("passwd", passwd_file(passwd), 0o644),
        ("group", group_file(group), 0o644),
        ("shadow", shadow_file(passwd), 0o600),
        ("gshadow", gshadow_file(group), 0o600),
    ]
}

fn passwd_file(machine: &str) -> String {
    let mut file: String = system_accounts(machine)
        .map(|fields| match fields.as_slice() {
            // A start-up file of bash, had it one, would slow each command down.
            ["root", .., home, _shell] => format!("root:x:0:0:root:{home}:/bin/sh\n"),
            fields => format!("{}\n", fields.join(":")),
        })
        .collect();
    file.push_str(&format!(
        "{USER}:x:{ID}:{ID}:BioXen guest:/{HOME}:/bin/sh\n"
    ));
    file
}

/// No account has a password; with `*` rather than `!` a key still opens it.
fn shadow_file(machine_passwd: &str) -> String {
    let names = system_accounts(machine_passwd).map(|fields| fields[0].to_owned());
    names
        .chain([USER.to_owned()])
        .map(|name| format!("{name}:*:19000:0:99999:7:::\n"))
        .collect()
}

fn group_file(machine: &str) -> String {
    let mut file: String = system_accounts(machine)
        .map(|fields| format!("{}:x:{}:\n", fields[0], fields[2]))
        .collect();
    file.push_str(&format!("{USER}:x:{ID}:\n"));
    file
}

fn gshadow_file(machine_group: &str) -> String {
    let names = system_accounts(machine_group).map(|fields| fields[0].to_owned());
    names
        .chain([USER.to_owned()])
        .map(|name| format!("{name}:*::\n"))
        .collect()
}

/// The lines of `/etc/passwd` or `/etc/group` that are about the system, split into fields.
fn system_accounts(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let id: u32 = fields.get(2)?.parse().ok()?;
        (id <= LAST_SYSTEM_ID || id == NOBODY).then_some(fields)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
        sshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n\
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
        alice:x:1000:1000:Alice,,,:/home/alice:/bin/bash\n\
        # a comment\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:alice\nalice:x:1000:\nnogroup:x:65534:\n";

    #[test]
    fn people_of_the_machine_are_not_users_of_the_guest() {
        let [passwd, group, shadow, gshadow] = files(PASSWD, GROUP);
        assert_eq!(
            passwd.1,
            "root:x:0:0:root:/root:/bin/sh\n\
             sshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n\
             nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
             bioxen:x:1000:1000:BioXen guest:/home/bioxen:/bin/sh\n"
        );
        assert_eq!(
            group.1,
            "root:x:0:\nadm:x:4:\nnogroup:x:65534:\nbioxen:x:1000:\n"
        );
        assert_eq!(shadow.1.lines().count(), 4);
        assert!(shadow.1.lines().all(|line| line.contains(":*:")));
        assert!(gshadow.1.contains("bioxen:*::\n"));
        assert_eq!(shadow.2, 0o600);
    }
}
