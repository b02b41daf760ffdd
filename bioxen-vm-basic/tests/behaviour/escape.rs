//! What a hostile program tries, and what becomes of it: it is stopped, and nobody else notices: not its
//! manager, not the manager's other VMs, their sessions and programs.

mod files;
mod machine;
mod neighbours;
mod processes;

use bioxen_vm_basic::{BasicConfig, Walls};
use bioxen_vm_core::{Outcome, Script};

use crate::support::Lab;

/// Runs a program by the manager of its VM.
async fn run(lab: &Lab, script: impl Into<Script>) -> Outcome {
    lab.manager
        .execute_vm(lab.vm.id().as_str(), script)
        .await
        .unwrap()
}

#[tokio::test]
async fn all_walls_stand_on_a_kernel_that_has_them() {
    for lab in Lab::both().await {
        let isolation = lab.vm.isolation();
        for name in ["files", "network", "processes", "system calls"] {
            let wall = isolation.wall(name).unwrap();
            assert!(wall.stands, "{wall:?}");
            assert!(!wall.detail.is_empty());
        }
    }
    let required = BasicConfig::default().with_walls(Walls::Required);
    Lab::new(required).await;
}

#[tokio::test]
async fn walls_that_are_switched_off_are_said_to_be() {
    let lab = Lab::new(BasicConfig::default().with_walls(Walls::Off)).await;
    let wall = lab.vm.isolation().wall("files").unwrap().clone();
    assert!(
        !wall.stands && wall.detail.contains("configuration"),
        "{wall:?}"
    );
    let outcome = run(&lab, "print(io.open('/etc/passwd') ~= nil)").await;
    assert_eq!(outcome.stdout_text(), "true\n");
}
