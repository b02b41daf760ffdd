//! Which blocks of a disk have changed.

use super::*;

/// The numbers of the blocks whose bits are set.
async fn changed(served: &Served, from: &str, to: &str) -> Vec<usize> {
    let args = vec![from.into(), to.into()];
    let bitmap = text(&served.pool.call("VDI.list_changed_blocks", args).await);
    let bytes = decode(&bitmap);
    let bits = (0..bytes.len() * 8).filter(|bit| bytes[bit / 8] & (0x80 >> (bit % 8)) != 0);
    bits.collect()
}

/// Reads base64.
fn decode(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text
        .bytes()
        .filter_map(|c| DIGITS.iter().position(|digit| *digit == c));
    let digits: Vec<usize> = digits.collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let number = group.iter().fold(0, |number, digit| number << 6 | digit);
        let number = number << (6 * (4 - group.len()));
        for byte in 0..group.len() - 1 {
            bytes.push((number >> (16 - 8 * byte)) as u8);
        }
    }
    bytes
}

#[tokio::test]
async fn a_disk_tells_what_was_written_since_a_snapshot() {
    let served = served().await;
    let pool = &served.pool;
    let vdi = served.vdi(4 * MIB).await;
    let this = || vec![vdi.as_str().into()];
    let mut content = bytes(2 * MIB);
    let path = format!("/import_raw_vdi?vdi={vdi}");
    served.put(&path, &content).await;
    let untracked = text(&pool.call("VDI.snapshot", this()).await);
    pool.call("VDI.enable_cbt", this()).await;
    let before = text(&pool.call("VDI.snapshot", this()).await);
    assert_eq!(changed(&served, &before, &vdi).await, [0_usize; 0]);
    // A byte in the second block, and the first ones behind what was there.
    content[100_000] ^= 1;
    content.extend([7; 64 * 1024]);
    served.put(&path, &content).await;
    assert_eq!(changed(&served, &before, &vdi).await, [1, 32]);
    // What is known of the blocks outlives the data.
    pool.call("VDI.data_destroy", vec![before.as_str().into()])
        .await;
    let kind = pool.get("VDI", "type", &before).await;
    assert_eq!(kind, "cbt_metadata".into());
    assert_eq!(changed(&served, &before, &vdi).await, [1, 32]);
    let failure = |reason: &str| {
        let text = "Failed to calculate changed blocks for given VDIs.";
        format!("SR_BACKEND_FAILURE_460||{text} [opterr={reason}]|")
    };
    let args = vec![untracked.into(), vdi.as_str().into()];
    assert_eq!(
        pool.fails("VDI.list_changed_blocks", args).await,
        failure("Changed block tracking is disabled")
    );
    let other = served.vdi(4 * MIB).await;
    let args = vec![other.into(), vdi.as_str().into()];
    assert_eq!(
        pool.fails("VDI.list_changed_blocks", args).await,
        failure("Source and target VDI are unrelated")
    );
}

#[tokio::test]
async fn the_checksum_of_a_disk_is_that_of_its_bytes() {
    let served = served().await;
    let vdi = served.vdi(2 * MIB).await;
    let sum = || served.pool.call("VDI.checksum", vec![vdi.as_str().into()]);
    // Of two mebibytes of zeros.
    assert_eq!(sum().await, "b2d1236c286a3c0704224fe4105eca49".into());
    served
        .put(&format!("/import_raw_vdi?vdi={vdi}"), &bytes(2 * MIB))
        .await;
    assert_ne!(sum().await, "b2d1236c286a3c0704224fe4105eca49".into());
}
