//! The curve P-521 (secp521r1), which ring does not support: verifies and makes signatures with its keys.
//!
//! etcd's `--auto-tls` makes certificates on this curve, as do users who want the longest key. The module
//! supports only signatures: keys are exchanged on ring's curves.

use std::sync::Arc;

use p521::{
    SecretKey,
    ecdsa::{
        DerSignature, Signature, SigningKey, VerifyingKey,
        signature::hazmat::{PrehashSigner as _, PrehashVerifier as _},
    },
};
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    crypto::{CryptoProvider, KeyProvider, WebPkiSupportedAlgorithms, ring},
    pki_types::{
        AlgorithmIdentifier, InvalidSignature, PrivateKeyDer, SignatureVerificationAlgorithm,
        SubjectPublicKeyInfoDer, alg_id,
    },
    sign,
};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// Digest that a signature is made over.
#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn of(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(message).to_vec(),
            Self::Sha384 => Sha384::digest(message).to_vec(),
            Self::Sha512 => Sha512::digest(message).to_vec(),
        }
    }
}

/// ECDSA verification with a key on P-521 and this digest.
#[derive(Debug)]
struct Verify(Hash);

static SHA256: Verify = Verify(Hash::Sha256);
static SHA384: Verify = Verify(Hash::Sha384);
static SHA512: Verify = Verify(Hash::Sha512);

impl SignatureVerificationAlgorithm for Verify {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        key.verify_prehash(&self.0.of(message), &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self.0 {
            Hash::Sha256 => alg_id::ECDSA_SHA256,
            Hash::Sha384 => alg_id::ECDSA_SHA384,
            Hash::Sha512 => alg_id::ECDSA_SHA512,
        }
    }
}

/// Adds P-521 to this cryptography.
pub(super) fn added_to(provider: CryptoProvider) -> CryptoProvider {
    let signature_verification_algorithms = with(provider.signature_verification_algorithms);
    CryptoProvider { signature_verification_algorithms, key_provider: &Keys, ..provider }
}

/// Adds P-521 to these algorithms. Certificates may be signed with any digest; TLS 1.3 fixes SHA-512 for
/// the curve, TLS 1.2 names only the digest.
fn with(of_ring: WebPkiSupportedAlgorithms) -> WebPkiSupportedAlgorithms {
    let all = [of_ring.all, &[&SHA256, &SHA384, &SHA512]].concat();
    let mut mapping: Vec<(
        SignatureScheme,
        &'static [&'static dyn SignatureVerificationAlgorithm],
    )> = Vec::new();
    for (scheme, algorithms) in of_ring.mapping {
        let own: &[&'static dyn SignatureVerificationAlgorithm] = match scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => &[&SHA256],
            SignatureScheme::ECDSA_NISTP384_SHA384 => &[&SHA384],
            _ => &[],
        };
        mapping.push((*scheme, leak([*algorithms, own].concat())));
    }
    let own: Vec<&'static dyn SignatureVerificationAlgorithm> = vec![&SHA512];
    mapping.push((SignatureScheme::ECDSA_NISTP521_SHA512, leak(own)));
    WebPkiSupportedAlgorithms { all: leak(all), mapping: leak(mapping) }
}

/// Leaks a list, because rustls needs lists that live as long as the process; called once for each list.
fn leak<T>(list: Vec<T>) -> &'static [T] {
    list.leak()
}

/// Loader of private keys: ring's kinds, and P-521.
#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(
        &self,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn sign::SigningKey>, Error> {
        if let Ok(key) = SecretKey::from_der(key.secret_der()) {
            return Ok(Arc::new(Key(SigningKey::from(key))));
        }
        ring::sign::any_supported_type(&key)
    }
}

/// Private key on P-521.
#[derive(Clone)]
struct Key(SigningKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(P-521)")
    }
}

impl sign::SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn sign::Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP521_SHA512)
            .then(|| Box::new(self.clone()) as Box<dyn sign::Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let point = self.0.verifying_key().to_sec1_point(false);
        Some(sign::public_key_to_spki(&alg_id::ECDSA_P521, point.as_bytes()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl sign::Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature: Signature = self
            .0
            .sign_prehash(&Hash::Sha512.of(message))
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(DerSignature::from(signature).as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP521_SHA512
    }
}
