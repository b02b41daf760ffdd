//! The handlers of a real server: their paths, and who may use them.

/// A handler of the server.
#[derive(Debug)]
pub(super) struct Handler {
    /// The name that the server gives to it.
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) role: &'static str,
    /// Whether the simulator carries it out.
    pub(super) is_simulated: bool,
}

type Name = &'static str;

const fn known(name: Name, method: Name, path: Name, role: Name) -> Handler {
    Handler {
        name,
        method,
        path,
        role,
        is_simulated: false,
    }
}

const fn simulated(name: Name, method: Name, path: Name, role: Name) -> Handler {
    Handler {
        is_simulated: true,
        ..known(name, method, path, role)
    }
}

/// Every handler but those of calls. The datamodel also names `/vm_rrds` and `/host_rrds`; nothing
/// of their own is behind them, so they come to those whose path they begin with.
#[rustfmt::skip] // One to a line.
pub(super) const HANDLERS: &[Handler] = &[
    simulated("get_services", "GET", "/services", "read-only"),
    simulated("post_services", "POST", "/services", "pool-admin"),
    simulated("put_services", "PUT", "/services", "pool-admin"),
    simulated("get_services_xenops", "GET", "/services/xenops", "vm-power-admin"),
    simulated("post_services_xenops", "POST", "/services/xenops", "vm-power-admin"),
    simulated("put_services_xenops", "PUT", "/services/xenops", "vm-power-admin"),
    simulated("get_services_sm", "GET", "/services/SM", "vm-power-admin"),
    simulated("post_services_sm", "POST", "/services/SM", "vm-power-admin"),
    simulated("put_services_sm", "PUT", "/services/SM", "vm-power-admin"),
    known("post_remote_db_access", "POST", "/remote_db_access", "pool-admin"),
    known("post_remote_db_access_v2", "POST", "/remote_db_access_v2", "pool-admin"),
    simulated("put_import", "PUT", "/import", "vm-admin"),
    simulated("put_import_metadata", "PUT", "/import_metadata", "vm-admin"),
    simulated("put_import_raw_vdi", "PUT", "/import_raw_vdi", "vm-admin"),
    simulated("get_export", "GET", "/export", "vm-admin"),
    simulated("get_export_metadata", "GET", "/export_metadata", "vm-admin"),
    simulated("get_export_raw_vdi", "GET", "/export_raw_vdi", "vm-admin"),
    simulated("connect_console", "CONNECT", "/console", "vm-operator"),
    simulated("connect_console_ws", "GET", "/console", "vm-operator"),
    simulated("post_cli", "POST", "/cli", "read-only"),
    simulated("get_host_backup", "GET", "/host_backup", "pool-admin"),
    simulated("put_host_restore", "PUT", "/host_restore", "pool-admin"),
    simulated("get_host_logs_download", "GET", "/host_logs_download", "pool-operator"),
    known("put_pool_patch_upload", "PUT", "/pool_patch_upload", "pool-operator"),
    simulated("get_vncsnapshot", "GET", "/vncsnapshot", "vm-operator"),
    simulated("get_pool_xml_db_sync", "GET", "/pool/xmldbdump", "pool-admin"),
    simulated("put_pool_xml_db_sync", "PUT", "/pool/xmldbdump", "pool-admin"),
    simulated("get_config_sync", "GET", "/sync_config_files", "pool-admin"),
    simulated("get_system_status", "GET", "/system-status", "pool-operator"),
    simulated("vm_rrd", "GET", "/vm_rrd", "read-only"),
    simulated("host_rrd", "GET", "/host_rrd", "read-only"),
    simulated("sr_rrd", "GET", "/sr_rrd", "read-only"),
    simulated("rrd_updates", "GET", "/rrd_updates", "read-only"),
    simulated("rrd", "PUT", "/rrd", "pool-admin"),
    simulated("get_blob", "GET", "/blob", "read-only"),
    simulated("put_blob", "PUT", "/blob", "vm-power-admin"),
    known("put_messages", "PUT", "/messages", "vm-power-admin"),
    simulated("connect_remotecmd", "CONNECT", "/remotecmd", "pool-admin"),
    simulated("get_wlb_report", "GET", "/wlb_report", "read-only"),
    simulated("get_wlb_diagnostics", "GET", "/wlb_diagnostics", "read-only"),
    simulated("get_audit_log", "GET", "/audit_log", "read-only"),
    simulated("get_pool_update_download", "GET", "/update/", "read-only"),
    simulated("get_repository", "GET", "/repository", "local-root-only"),
    simulated("get_enabled_repository", "GET", "/repository/enabled", "pool-operator"),
    simulated("get_host_updates", "GET", "/host_updates", "pool-operator"),
    simulated("get_updates", "GET", "/updates", "pool-operator"),
    simulated("put_bundle", "PUT", "/bundle", "pool-operator"),
];

/// Whether rules for this name would act on a handler: a path, alone or behind a method, with a `*`
/// for any rest.
pub(crate) fn has(name: &str) -> bool {
    HANDLERS.iter().any(|handler| {
        let whole = format!("{} {}", handler.method, handler.path);
        let names = [handler.path, &whole];
        match name.strip_suffix('*') {
            Some(start) => names.iter().any(|known| known.starts_with(start)),
            None => names.contains(&name),
        }
    })
}

/// Whether a request of this method and path goes to a handler and not to the calls.
pub(crate) fn serves(method: &str, path: &str) -> bool {
    find(method, path).is_some()
}

/// The handler with the longest path that the given one begins with.
pub(super) fn find(method: &str, path: &str) -> Option<&'static Handler> {
    HANDLERS
        .iter()
        .filter(|handler| handler.method == method && path.starts_with(handler.path))
        .max_by_key(|handler| handler.path.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_counts() {
        let name = |method, path| find(method, path).map(|handler| handler.name);
        assert_eq!(name("GET", "/export"), Some("get_export"));
        assert_eq!(name("GET", "/export_raw_vdi"), Some("get_export_raw_vdi"));
        assert_eq!(name("GET", "/services/SM/nfs"), Some("get_services_sm"));
        assert_eq!(name("GET", "/nothing"), None);
        assert_eq!(name("POST", "/export"), None);
    }
}
