//! The handlers of a real server: their paths, and who may use them.

/// A handler of the server.
#[derive(Debug)]
pub(super) struct Handler {
    /// The name that the server gives to it.
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) role: &'static str,
}

const fn handler(
    name: &'static str,
    method: &'static str,
    path: &'static str,
    role: &'static str,
) -> Handler {
    Handler {
        name,
        method,
        path,
        role,
    }
}

/// Every handler but those of calls. The datamodel also names `/vm_rrds` and `/host_rrds`; nothing
/// of their own is behind them, so they come to those whose path they begin with.
pub(super) const HANDLERS: &[Handler] = &[
    handler("get_services", "GET", "/services", "read-only"),
    handler("post_services", "POST", "/services", "pool-admin"),
    handler("put_services", "PUT", "/services", "pool-admin"),
    handler(
        "get_services_xenops",
        "GET",
        "/services/xenops",
        "vm-power-admin",
    ),
    handler(
        "post_services_xenops",
        "POST",
        "/services/xenops",
        "vm-power-admin",
    ),
    handler(
        "put_services_xenops",
        "PUT",
        "/services/xenops",
        "vm-power-admin",
    ),
    handler("get_services_sm", "GET", "/services/SM", "vm-power-admin"),
    handler("post_services_sm", "POST", "/services/SM", "vm-power-admin"),
    handler("put_services_sm", "PUT", "/services/SM", "vm-power-admin"),
    handler(
        "post_remote_db_access",
        "POST",
        "/remote_db_access",
        "pool-admin",
    ),
    handler(
        "post_remote_db_access_v2",
        "POST",
        "/remote_db_access_v2",
        "pool-admin",
    ),
    handler("put_import", "PUT", "/import", "vm-admin"),
    handler("put_import_metadata", "PUT", "/import_metadata", "vm-admin"),
    handler("put_import_raw_vdi", "PUT", "/import_raw_vdi", "vm-admin"),
    handler("get_export", "GET", "/export", "vm-admin"),
    handler("get_export_metadata", "GET", "/export_metadata", "vm-admin"),
    handler("get_export_raw_vdi", "GET", "/export_raw_vdi", "vm-admin"),
    handler("connect_console", "CONNECT", "/console", "vm-operator"),
    handler("connect_console_ws", "GET", "/console", "vm-operator"),
    handler("post_cli", "POST", "/cli", "read-only"),
    handler("get_host_backup", "GET", "/host_backup", "pool-admin"),
    handler("put_host_restore", "PUT", "/host_restore", "pool-admin"),
    handler(
        "get_host_logs_download",
        "GET",
        "/host_logs_download",
        "pool-operator",
    ),
    handler(
        "put_pool_patch_upload",
        "PUT",
        "/pool_patch_upload",
        "pool-operator",
    ),
    handler("get_vncsnapshot", "GET", "/vncsnapshot", "vm-operator"),
    handler(
        "get_pool_xml_db_sync",
        "GET",
        "/pool/xmldbdump",
        "pool-admin",
    ),
    handler(
        "put_pool_xml_db_sync",
        "PUT",
        "/pool/xmldbdump",
        "pool-admin",
    ),
    handler("get_config_sync", "GET", "/sync_config_files", "pool-admin"),
    handler(
        "get_system_status",
        "GET",
        "/system-status",
        "pool-operator",
    ),
    handler("vm_rrd", "GET", "/vm_rrd", "read-only"),
    handler("host_rrd", "GET", "/host_rrd", "read-only"),
    handler("sr_rrd", "GET", "/sr_rrd", "read-only"),
    handler("rrd_updates", "GET", "/rrd_updates", "read-only"),
    handler("rrd", "PUT", "/rrd", "pool-admin"),
    handler("get_blob", "GET", "/blob", "read-only"),
    handler("put_blob", "PUT", "/blob", "vm-power-admin"),
    handler("put_messages", "PUT", "/messages", "vm-power-admin"),
    handler("connect_remotecmd", "CONNECT", "/remotecmd", "pool-admin"),
    handler("get_wlb_report", "GET", "/wlb_report", "read-only"),
    handler(
        "get_wlb_diagnostics",
        "GET",
        "/wlb_diagnostics",
        "read-only",
    ),
    handler("get_audit_log", "GET", "/audit_log", "read-only"),
    handler("get_pool_update_download", "GET", "/update/", "read-only"),
    handler("get_repository", "GET", "/repository", "local-root-only"),
    handler(
        "get_enabled_repository",
        "GET",
        "/repository/enabled",
        "pool-operator",
    ),
    handler("get_host_updates", "GET", "/host_updates", "pool-operator"),
    handler("get_updates", "GET", "/updates", "pool-operator"),
    handler("put_bundle", "PUT", "/bundle", "pool-operator"),
];

/// The handlers that the simulator carries out.
pub(super) const SIMULATED: &[&str] = &[
    "connect_console",
    "connect_console_ws",
    "get_audit_log",
    "get_blob",
    "put_blob",
    "get_vncsnapshot",
    "get_host_backup",
    "put_host_restore",
    "get_host_logs_download",
    "get_host_updates",
    "get_updates",
    "get_repository",
    "get_enabled_repository",
    "post_cli",
    "connect_remotecmd",
    "get_config_sync",
    "rrd",
    "put_bundle",
    "get_pool_update_download",
    "get_services",
    "post_services",
    "put_services",
    "get_services_sm",
    "post_services_sm",
    "put_services_sm",
    "get_services_xenops",
    "post_services_xenops",
    "put_services_xenops",
    "get_system_status",
    "get_wlb_report",
    "get_wlb_diagnostics",
    "put_pool_xml_db_sync",
    "get_export",
    "get_export_metadata",
    "get_export_raw_vdi",
    "get_pool_xml_db_sync",
    "put_import",
    "put_import_metadata",
    "put_import_raw_vdi",
    "host_rrd",
    "rrd_updates",
    "sr_rrd",
    "vm_rrd",
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

    #[test]
    fn what_is_simulated_is_in_the_table() {
        for name in SIMULATED {
            assert!(HANDLERS.iter().any(|handler| handler.name == *name));
        }
    }
}
