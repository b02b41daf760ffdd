//! What cloud-init makes of the documents on a config drive.

use super::drive::{ConfigDrive, Source};
use super::user_data::UserData;
use super::yaml::Node;

/// What root may do with a key while `disable_root` is on.
const ROOT_IS_DISABLED: &str = "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command=\
    \"echo 'Please login as the user \\\"$USER\\\" rather than the user \\\"root\\\".';\
    echo;sleep 10;exit 142\" ";

/// What is to be done in a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CloudConfig {
    pub(crate) instance_id: String,
    pub(crate) hostname: Option<String>,
    pub(crate) users: Vec<UserConfig>,
    /// Keys by their file name in `/etc/ssh`, and whether those that are there go.
    pub(crate) host_keys: Vec<(String, String)>,
    pub(crate) delete_host_keys: bool,
    pub(crate) files: Vec<FileConfig>,
    /// Scripts: of each boot, and of the end of the first.
    pub(crate) bootcmd: Option<String>,
    pub(crate) runcmd: Option<String>,
    pub(crate) boothooks: Vec<String>,
    pub(crate) user_scripts: Vec<String>,
    /// Lines for `chpasswd`: `user:password`, and those whose password is a hash.
    pub(crate) passwords: Vec<String>,
    pub(crate) password_hashes: Vec<String>,
    /// Users who have to choose another password.
    pub(crate) expired: Vec<String>,
    /// Packages in the words of the package manager, and whether its lists are fetched first.
    pub(crate) packages: Vec<String>,
    pub(crate) package_update: bool,
    /// What the log ends with.
    pub(crate) final_message: Option<String>,
    pub(crate) timezone: Option<String>,
    /// How many seconds after all that the system ends, if it does.
    pub(crate) power_off: Option<u64>,
    /// Keys that the metadata have, for the default user.
    keys: Vec<String>,
    /// What `network-config` says of the interfaces, in its order.
    pub(crate) interfaces: Vec<InterfaceConfig>,
    /// What is wrong, one line each.
    pub(crate) errors: Vec<String>,
}

/// An interface as `network-config` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The MAC address by which the interface is known, if that is said.
    pub mac: Option<String>,
    /// Its first address, if that is fixed.
    pub address: Option<std::net::IpAddr>,
}

/// A user to be made, or to be let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct UserConfig {
    pub(crate) name: String,
    /// Options and values for `useradd`, for one who is not there yet.
    pub(crate) useradd: Vec<(&'static str, String)>,
    pub(crate) sudo: Vec<String>,
    pub(crate) keys: Vec<String>,
}

/// A file to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FileConfig {
    pub(crate) path: String,
    pub(crate) content: String,
    pub(crate) encoding: String,
    pub(crate) owner: String,
    pub(crate) permissions: String,
    pub(crate) append: bool,
}

/// Keys of cloud-config that are carried out, or change nothing here.
const KNOWN: [&str; 31] = [
    "bootcmd",
    "chpasswd",
    "disable_root",
    "final_message",
    "fqdn",
    "growpart",
    "hostname",
    "locale",
    "manage_etc_hosts",
    "merge_how",
    "merge_type",
    "network",
    "no_ssh_fingerprints",
    "ntp",
    "output",
    "packages",
    "password",
    "power_state",
    "package_reboot_if_required",
    "package_update",
    "package_upgrade",
    "preserve_hostname",
    "resize_rootfs",
    "runcmd",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_keys",
    "ssh_pwauth",
    "timezone",
    "users",
    "write_files",
];

impl CloudConfig {
    /// Reads the documents. What cloud-init would not understand is told among the errors.
    pub(crate) fn new(drive: &ConfigDrive, default_user: &str) -> Self {
        let mut made = Self {
            delete_host_keys: true,
            ..Self::default()
        };
        let meta_data = made.document("meta-data", &drive.meta_data);
        let (id, hostname, keys) = match drive.source {
            Source::NoCloud => ("instance-id", "local-hostname", "public-keys"),
            Source::ConfigDrive => ("uuid", "hostname", "public_keys"),
        };
        made.instance_id = meta_data
            .text_at(id)
            // What the data source calls an instance without a name.
            .unwrap_or_else(|| "iid-datasource-none".to_owned());
        made.hostname = meta_data.text_at(hostname).map(|name| short(&name));
        made.keys = match meta_data.get(keys) {
            // By their names.
            Some(Node::Map(keys)) => keys
                .iter()
                .flat_map(|(_, keys)| keys.words_or_line())
                .collect(),
            Some(keys) => keys.words_or_line(),
            None => Vec::new(),
        };
        if let Some(network) = &drive.network_config {
            let network = made.document("network-config", network);
            made.interfaces = match drive.source {
                Source::NoCloud => interfaces(&network),
                Source::ConfigDrive => links(&network),
            };
        }
        let user_data = UserData::read(&drive.user_data);
        made.errors.extend(user_data.errors);
        made.user_scripts = user_data.scripts;
        made.boothooks = user_data.boothooks;
        made.read(&user_data.config, default_user);
        made
    }

    fn document(&mut self, name: &str, text: &str) -> Node {
        Node::parse(text).unwrap_or_else(|error| {
            self.errors
                .push(format!("Failed loading yaml blob of {name}: {error}"));
            Node::Nothing
        })
    }

    fn read(&mut self, config: &Node, default_user: &str) {
        if let Node::Map(pairs) = config {
            for (key, _) in pairs {
                if !KNOWN.contains(&key.as_str()) {
                    self.errors
                        .push(format!("xapi-sim does not carry out {key} of cloud-config"));
                }
            }
        }
        if let Some(name) = config.text_at("hostname").or(config.text_at("fqdn")) {
            self.hostname = Some(short(&name));
        }
        self.delete_host_keys = config.flag_at("ssh_deletekeys", true);
        if let Some(Node::Map(keys)) = config.get("ssh_keys") {
            for (name, key) in keys {
                match (host_key_file(name), key.text()) {
                    (Some(file), Some(text)) => self.host_keys.push((file, text.to_owned())),
                    _ => self
                        .errors
                        .push(format!("Skipping unrecognized ssh_keys entry: \"{name}\"")),
                }
            }
        }
        self.read_users(config, default_user);
        self.read_passwords(config, default_user);
        self.package_update =
            config.flag_at("package_update", false) || config.flag_at("package_upgrade", false);
        for package in config.get("packages").map_or(&[][..], Node::items) {
            match package {
                Node::Scalar(name, _) => self.packages.push(name.clone()),
                // A name and a version.
                Node::List(words) if words.len() == 2 => {
                    let words: Vec<&str> = words.iter().filter_map(Node::text).collect();
                    self.packages.push(words.join("="));
                }
                _ => self.errors.push(
                    "packages: an entry is neither a name nor a name and a version".to_owned(),
                ),
            }
        }
        self.final_message = config.text_at("final_message");
        self.timezone = config.text_at("timezone");
        if let Some(state) = config.get("power_state") {
            match power_off(state) {
                Ok(after) => self.power_off = after,
                Err(error) => self.errors.push(format!("power_state: {error}")),
            }
        }
        for file in config.get("write_files").map_or(&[][..], Node::items) {
            match file.text_at("path") {
                Some(path) => self.files.push(file_config(path, file)),
                None => self
                    .errors
                    .push("No path provided to write for an entry of write_files".to_owned()),
            }
        }
        for (key, script) in [("bootcmd", &mut self.bootcmd), ("runcmd", &mut self.runcmd)] {
            match config.get(key).map(shellify) {
                None => {}
                Some(Ok(text)) => *script = Some(text),
                Some(Err(error)) => self
                    .errors
                    .push(format!("Failed to shellify {key}: {error}")),
            }
        }
    }

    fn read_passwords(&mut self, config: &Node, default_user: &str) {
        let nothing = Node::Nothing;
        let settings = config.get("chpasswd").unwrap_or(&nothing);
        let mut pairs: Vec<(String, String, Option<String>)> = Vec::new();
        if let Some(password) = config.text_at("password") {
            pairs.push((default_user.to_owned(), password, None));
        }
        let lines = match settings.get("list") {
            Some(Node::Scalar(text, _)) => text.lines().map(str::to_owned).collect(),
            Some(list) => list.words_or_line(),
            None => Vec::new(),
        };
        for line in lines.iter().filter(|line| !line.trim().is_empty()) {
            match line.split_once(':') {
                Some((name, password)) => pairs.push((name.to_owned(), password.to_owned(), None)),
                None => self
                    .errors
                    .push("chpasswd: a line of list is no USER:PASSWORD".to_owned()),
            }
        }
        for user in settings.get("users").map_or(&[][..], Node::items) {
            match (user.text_at("name"), user.text_at("password")) {
                (Some(name), Some(password)) => {
                    let kind = user.text_at("type").unwrap_or_else(|| "hash".to_owned());
                    pairs.push((name, password, Some(kind)));
                }
                _ => self
                    .errors
                    .push("chpasswd: an entry of users lacks name or password".to_owned()),
            }
        }
        for (name, password, kind) in pairs {
            let is_hash = ["$1$", "$2a$", "$2y$", "$5$", "$6$"]
                .iter()
                .any(|start| password.starts_with(start));
            let hashed = kind.map_or(is_hash, |kind| kind == "hash");
            let line = format!("{name}:{password}");
            if hashed {
                self.password_hashes.push(line);
            } else if matches!(password.as_str(), "R" | "RANDOM") {
                let text = format!("chpasswd: xapi-sim makes up no password for {name}");
                self.errors.push(text);
            } else {
                self.passwords.push(line);
                if settings.flag_at("expire", true) {
                    self.expired.push(name);
                }
            }
        }
    }

    fn read_users(&mut self, config: &Node, default_user: &str) {
        let listed = config.get("users");
        let default = [Node::Scalar("default".to_owned(), true)];
        let mut has_default = false;
        for user in listed.map_or(&default[..], Node::items) {
            let made = match user {
                Node::Scalar(name, _) if name == "default" => {
                    has_default = true;
                    UserConfig {
                        name: default_user.to_owned(),
                        ..UserConfig::default()
                    }
                }
                Node::Scalar(name, _) => UserConfig {
                    name: name.clone(),
                    ..UserConfig::default()
                },
                user => match user.text_at("name") {
                    Some(name) => user_config(name, user),
                    None => {
                        self.errors.push("a user without a name".to_owned());
                        continue;
                    }
                },
            };
            self.users.push(made);
        }
        // Keys of nobody in particular are the default user's, and root's as far as that may log in.
        let mut keys = std::mem::take(&mut self.keys);
        if let Some(more) = config.get("ssh_authorized_keys") {
            keys.extend(more.words_or_line());
        }
        if keys.is_empty() {
            return;
        }
        let default_user = has_default.then_some(default_user);
        for user in &mut self.users {
            if Some(&*user.name) == default_user {
                user.keys.extend(keys.iter().cloned());
            }
        }
        let prefix = if config.flag_at("disable_root", true) {
            ROOT_IS_DISABLED.replace("$USER", default_user.unwrap_or("NONE"))
        } else {
            String::new()
        };
        self.users.push(UserConfig {
            name: "root".to_owned(),
            keys: keys.iter().map(|key| format!("{prefix}{key}")).collect(),
            ..UserConfig::default()
        });
    }
}

impl Node {
    /// Its texts: of a list, or the one that it is.
    fn words_or_line(&self) -> Vec<String> {
        let texts = self.items().iter().filter_map(Self::text);
        texts.map(|text| text.trim().to_owned()).collect()
    }
}

/// The first part of a name in the domain name system.
fn short(name: &str) -> String {
    name.split('.').next().unwrap_or_default().to_owned()
}

/// How many seconds after the end of the work the system is to be powered off, if it is.
fn power_off(state: &Node) -> Result<Option<u64>, String> {
    match state.get("condition").map(|said| (said, said.flag())) {
        None | Some((_, Some(true))) => {}
        Some((_, Some(false))) => return Ok(None),
        Some((_, None)) => {
            return Err("xapi-sim carries out no condition but true and false".to_owned());
        }
    }
    match state.text_at("mode").as_deref() {
        Some("poweroff" | "halt") => {}
        Some("reboot") => return Err("xapi-sim does not carry out mode reboot".to_owned()),
        mode => {
            let mode = mode.unwrap_or_default();
            return Err(format!(
                "mode {mode:?} is none of poweroff, reboot and halt"
            ));
        }
    }
    let delay = state.text_at("delay").unwrap_or_else(|| "now".to_owned());
    if delay == "now" {
        return Ok(Some(0));
    }
    let minutes = delay.trim_start_matches('+').parse::<u64>();
    let minutes = minutes.map_err(|_| format!("delay {delay:?} is neither now nor +MINUTES"))?;
    Ok(Some(minutes.saturating_mul(60)))
}

fn host_key_file(name: &str) -> Option<String> {
    let (kind, form) = name.split_once('_')?;
    if !["rsa", "dsa", "ecdsa", "ed25519"].contains(&kind) {
        return None;
    }
    match form {
        "private" => Some(format!("ssh_host_{kind}_key")),
        "public" => Some(format!("ssh_host_{kind}_key.pub")),
        _ => None,
    }
}

fn user_config(name: String, user: &Node) -> UserConfig {
    let options = [
        ("gecos", "--comment"),
        ("homedir", "--home-dir"),
        ("primary_group", "--gid"),
        ("uid", "--uid"),
        ("shell", "--shell"),
    ];
    let mut useradd: Vec<_> = options
        .into_iter()
        .filter_map(|(key, option)| Some((option, user.text_at(key)?)))
        .collect();
    if let Some(groups) = user.get("groups") {
        useradd.push(("--groups", groups.words().join(",")));
    }
    let sudo = user
        .get("sudo")
        .map(Node::words_or_line)
        .unwrap_or_default();
    let keys = user.get("ssh_authorized_keys").map(Node::words_or_line);
    UserConfig {
        name,
        useradd,
        // `sudo: false` asks for none.
        sudo: sudo.into_iter().filter(|rule| rule != "false").collect(),
        keys: keys.unwrap_or_default(),
    }
}

fn file_config(path: String, file: &Node) -> FileConfig {
    let permissions = match file.get("permissions") {
        // Without quotes and a leading 0 it is a decimal number.
        Some(Node::Scalar(text, true)) if !text.starts_with('0') => text
            .parse::<u32>()
            .map_or(text.clone(), |mode| format!("{mode:o}")),
        Some(Node::Scalar(text, _)) => text.trim_start_matches("0o").to_owned(),
        _ => "0644".to_owned(),
    };
    FileConfig {
        path,
        content: file.text_at("content").unwrap_or_default(),
        encoding: file.text_at("encoding").unwrap_or_default().to_lowercase(),
        owner: file
            .text_at("owner")
            .unwrap_or_else(|| "root:root".to_owned()),
        permissions,
        append: file.flag_at("append", false),
    }
}

/// The script of a list of commands: words are quoted, lines are shell already.
fn shellify(commands: &Node) -> Result<String, String> {
    let Node::List(commands) = commands else {
        return Err("Input to shellify was no list".to_owned());
    };
    let mut script = "#!/bin/sh\n".to_owned();
    for command in commands {
        match command {
            Node::List(words) => {
                let quoted = words.iter().map(|word| {
                    let text = word.text().unwrap_or_default();
                    format!("'{}'", text.replace('\'', r"'\''"))
                });
                script.push_str(&quoted.collect::<Vec<_>>().join(" "));
                script.push('\n');
            }
            Node::Scalar(line, _) => {
                script.push_str(line);
                script.push('\n');
            }
            Node::Nothing => {}
            Node::Map(_) => return Err("Unable to shellify type 'dict'".to_owned()),
        }
    }
    Ok(script)
}

/// The interfaces of a network configuration, of version 1 or 2.
fn interfaces(network: &Node) -> Vec<InterfaceConfig> {
    let network = network.get("network").unwrap_or(network);
    let address = |text: &str| text.split('/').next()?.parse().ok();
    if let Some(Node::Map(interfaces)) = network.get("ethernets") {
        let interfaces = interfaces.iter().map(|(_, interface)| {
            let addresses = interface.get("addresses").map(Node::words);
            let found = interface.get("match");
            InterfaceConfig {
                mac: found.and_then(|found| found.text_at("macaddress")),
                address: addresses.and_then(|all| all.iter().find_map(|text| address(text))),
            }
        });
        return interfaces.collect();
    }
    let entries = network.get("config").map_or(&[][..], Node::items).iter();
    let physical = entries.filter(|entry| entry.text_at("type").as_deref() == Some("physical"));
    let interfaces = physical.map(|entry| {
        let mut subnets = entry.get("subnets").map_or(&[][..], Node::items).iter();
        InterfaceConfig {
            mac: entry.text_at("mac_address"),
            address: subnets.find_map(|subnet| address(subnet.get("address")?.text()?)),
        }
    });
    interfaces.collect()
}

/// The interfaces of a network as OpenStack describes it.
fn links(network: &Node) -> Vec<InterfaceConfig> {
    let networks = network.get("networks").map_or(&[][..], Node::items);
    let links = network.get("links").map_or(&[][..], Node::items).iter();
    let links = links.map(|link| {
        let id = link.text_at("id");
        let mut on_it = networks.iter().filter(|on| on.text_at("link") == id);
        InterfaceConfig {
            mac: link.text_at("ethernet_mac_address"),
            address: on_it.find_map(|network| network.get("ip_address")?.text()?.parse().ok()),
        }
    });
    links.collect()
}

#[cfg(test)]
mod tests;
