use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use secrecy::{ExposeSecret, SecretString};

use super::SshError;

/// An ed25519 key pair in OpenSSH's forms. It is made in memory and never on disk.
#[derive(Debug, Clone)]
pub struct KeyPair {
    private: SecretString,
    public: String,
}

impl KeyPair {
    /// Makes a fresh pair.
    ///
    /// # Errors
    /// Fails when this machine gives no random numbers.
    pub fn generate(comment: &str) -> Result<Self, SshError> {
        let random = SystemRandom::new();
        let mut seed = [0; 32];
        let mut check = [0; 4];
        random.fill(&mut seed).map_err(|_| SshError::NoRandomness)?;
        random
            .fill(&mut check)
            .map_err(|_| SshError::NoRandomness)?;
        let pair =
            Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| SshError::NoRandomness)?;
        let public = pair.public_key().as_ref();
        let blob = fields(&[KIND, public]);
        Ok(Self {
            public: format!("ssh-ed25519 {} {comment}", base64(&blob)),
            private: SecretString::from(armour(&private(&seed, public, &blob, check, comment))),
        })
    }

    /// The private key, as a file that `ssh` and `sshd` read.
    #[must_use]
    pub fn private(&self) -> &SecretString {
        &self.private
    }

    /// The private key's text.
    #[must_use]
    pub fn expose_private(&self) -> &str {
        self.private.expose_secret()
    }

    /// The public key as a line of an authorized_keys file: `ssh-ed25519 AAAA... comment`.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }
}

const KIND: &[u8] = b"ssh-ed25519";
const CIPHER_BLOCK: usize = 8;

/// The binary form of an unencrypted private key (`PROTOCOL.key` of OpenSSH).
fn private(seed: &[u8; 32], public: &[u8], blob: &[u8], check: [u8; 4], comment: &str) -> Vec<u8> {
    // The same number twice: the reader's proof that decryption worked.
    let mut secret = [check, check].concat();
    let both = [&seed[..], public].concat();
    secret.extend(fields(&[KIND, public, &both, comment.as_bytes()]));
    for pad in 1.. {
        if secret.len().is_multiple_of(CIPHER_BLOCK) {
            break;
        }
        secret.push(pad);
    }
    let mut key = b"openssh-key-v1\0".to_vec();
    key.extend(fields(&[b"none", b"none", b""]));
    key.extend(1_u32.to_be_bytes());
    key.extend(fields(&[blob, &secret]));
    key
}

/// Byte strings, each after its length.
fn fields(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().fold(Vec::new(), |mut all, part| {
        // No part of a key comes near 4 GiB.
        all.extend((part.len() as u32).to_be_bytes());
        all.extend(*part);
        all
    })
}

fn armour(key: &[u8]) -> String {
    let mut text = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    let encoded = base64(key);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(70));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    text
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            if place <= group.len() {
                let index = bits >> (18 - 6 * place) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bioxen_vm_core::local::LocalRunner;
    use bioxen_vm_core::{Command, Runner};

    #[test]
    fn base64_pads_as_the_standard_says() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[tokio::test]
    async fn ssh_keygen_reads_the_private_key_and_derives_the_same_public_key() {
        let pair = KeyPair::generate("a comment").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pair.expose_private()).unwrap();
        let outcome = LocalRunner::new()
            .run(Command::new("ssh-keygen").args(["-y", "-f", file.path().to_str().unwrap()]))
            .await
            .unwrap();
        assert_eq!(
            outcome.stdout_text().trim(),
            pair.public(),
            "{}",
            outcome.stderr_text()
        );
    }

    #[test]
    fn pairs_differ_and_do_not_show_their_secret() {
        let (one, two) = (
            KeyPair::generate("").unwrap(),
            KeyPair::generate("").unwrap(),
        );
        assert_ne!(one.public(), two.public());
        let secret = one.expose_private().lines().nth(2).unwrap();
        assert!(!format!("{one:?}").contains(secret));
    }
}
