//! The numbers of a manager as a page for Prometheus.

use std::fmt::{self, Write as _};

use super::observe::{ENDS, ManagerStats};

impl ManagerStats {
    /// These numbers in the text format of Prometheus (0.0.4), for a page that it asks for or a file
    /// that a collector reads. Serve it as `text/plain; version=0.0.4`.
    ///
    /// ```
    /// # use bioxen_vm_core::{VmFactory, VmManager};
    /// let manager = VmManager::new(VmFactory::new());
    /// let page = manager.stats().to_prometheus();
    /// assert!(page.contains("# TYPE bioxen_vms gauge\n"));
    /// assert!(page.contains("bioxen_vms_created_total 0\n"));
    /// ```
    #[must_use]
    pub fn to_prometheus(&self) -> String {
        let mut page = String::new();
        // Writing to a text cannot fail.
        let _ = self.write_to(&mut page);
        page
    }

    fn write_to(&self, page: &mut String) -> fmt::Result {
        let totals = &self.totals;
        head(page, "bioxen_vms", "gauge", "VMs that are ready, by type.")?;
        for (vm_type, count) in &self.vms_by_type {
            writeln!(page, "bioxen_vms{{type=\"{}\"}} {count}", escaped(vm_type))?;
        }
        let vms = [
            ("created", totals.vms_created, "VMs that became ready."),
            (
                "failed",
                totals.vms_failed,
                "VMs that could not be made or started.",
            ),
            (
                "destroyed",
                totals.vms_destroyed,
                "VMs that were destroyed.",
            ),
        ];
        for (name, count, help) in vms {
            single(
                page,
                &format!("bioxen_vms_{name}_total"),
                "counter",
                help,
                count,
            )?;
        }
        let sessions = [
            (
                "bioxen_sessions",
                self.interactive_sessions,
                "Lua sessions that are not over.",
            ),
            (
                "bioxen_sessions_attached",
                self.attached_sessions,
                "Lua sessions that somebody is attached to.",
            ),
        ];
        for (name, count, help) in sessions {
            single(page, name, "gauge", help, count)?;
        }
        let help = "Programs that run.";
        single(
            page,
            "bioxen_executions_running",
            "gauge",
            help,
            self.running_operations,
        )?;
        let name = "bioxen_executions_total";
        head(
            page,
            name,
            "counter",
            "Programs that have ended, by how they did.",
        )?;
        // Also those that have not been, so that their growth is seen from the first on.
        for end in ENDS {
            let count = totals.operations_by_end.get(end).unwrap_or(&0);
            writeln!(page, "{name}{{end=\"{end}\"}} {count}")?;
        }
        let name = "bioxen_execution_seconds";
        head(page, name, "summary", "How long programs ran.")?;
        writeln!(page, "{name}_sum {}", totals.operation_time.as_secs_f64())?;
        writeln!(page, "{name}_count {}", self.completed_operations)
    }
}

fn head(page: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn single(
    page: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    value: impl fmt::Display,
) -> fmt::Result {
    head(page, name, kind, help)?;
    writeln!(page, "{name} {value}")
}

/// A value of a label: VM types may be anybody's.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n")
}
