//! The algorithms that sign tokens, and their keys.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ci_core::{Error, ErrorKind, Result};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// How tokens are signed (RFC 7518, section 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// RSA of 2,048 bits with PKCS #1 and SHA-256: what every verifier knows, and some know nothing else.
    Rs256,
    /// ECDSA over P-256 with SHA-256: small, and widely known.
    Es256,
    /// Ed25519: small, and known to few clouds.
    EdDsa,
}

impl Algorithm {
    /// The name in tokens and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// A new private key in PKCS #8 (RFC 5208). One for RSA takes a noticeable fraction of a second.
    pub(super) fn generate(self) -> Result<Zeroizing<Vec<u8>>> {
        let made = match self {
            Self::Rs256 => RsaKeyPair::generate(KeySize::Rsa2048).and_then(|key| {
                let der: Pkcs8V1Der<'_> = key.as_der()?;
                Ok(Zeroizing::new(der.as_ref().to_vec()))
            }),
            Self::Es256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                    .map(|document| Zeroizing::new(document.as_ref().to_vec()))
            }
            Self::EdDsa => Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map(|document| Zeroizing::new(document.as_ref().to_vec())),
        };
        made.map_err(|error| Error::new(ErrorKind::Internal, "make a key for tokens").caused_by(error))
    }
}

/// A private key, ready to sign. The library wipes it when it is dropped.
pub(super) enum PrivateKey {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl PrivateKey {
    pub(super) fn read(algorithm: Algorithm, pkcs8: &[u8]) -> Option<Self> {
        match algorithm {
            Algorithm::Rs256 => RsaKeyPair::from_pkcs8(pkcs8).ok().map(Self::Rsa),
            Algorithm::Es256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok().map(Self::Ec)
            }
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8(pkcs8).ok().map(Self::Ed),
        }
    }

    /// The public half as a JSON Web Key (RFC 7517), with nothing but what its thumbprint is made of.
    fn public(&self) -> Value {
        let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        match self {
            Self::Rsa(key) => {
                let public = key.public_key();
                let (n, e) = (public.modulus(), public.exponent());
                let (n, e) = (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
                json!({ "e": text(e), "kty": "RSA", "n": text(n) })
            }
            Self::Ec(key) => {
                // 4, then both coordinates (SEC 1, section 2.3.3).
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "crv": "P-256", "kty": "EC", "x": text(x), "y": text(y) })
            }
            Self::Ed(key) => json!({ "crv": "Ed25519", "kty": "OKP", "x": text(key.public_key().as_ref()) }),
        }
    }

    /// The key's id: its thumbprint (RFC 7638), which wants the members in the order of their names, as they are here.
    pub(super) fn id(&self) -> String {
        BASE64URL_NOPAD.encode(
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.public().to_string().as_bytes())
                .as_ref(),
        )
    }

    /// The public half as it is published.
    pub(super) fn jwk(&self, algorithm: Algorithm) -> Value {
        let mut key = self.public();
        key["alg"] = algorithm.name().into();
        key["use"] = "sig".into();
        key["kid"] = self.id().into();
        key
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let random = SystemRandom::new();
        let signed = match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map(|()| signature)
            }
            Self::Ec(key) => key.sign(&random, message).map(|signature| signature.as_ref().to_vec()),
            Self::Ed(key) => Ok(key.sign(message).as_ref().to_vec()),
        };
        signed.map_err(|error| Error::new(ErrorKind::Internal, "sign an identity token").caused_by(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 8037, appendix A.3.
    #[test]
    fn a_thumbprint_is_the_standard_s() {
        let pkcs8 = data_encoding::HEXLOWER
            .decode(
                b"302e020100300506032b6570042204209d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            )
            .expect("hexadecimal");
        let key = PrivateKey::read(Algorithm::EdDsa, &pkcs8).expect("a key");
        assert_eq!(key.id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_key_of_one_kind_is_none_of_another() {
        let kinds = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];
        for made in kinds {
            let pkcs8 = made.generate().expect("a key");
            for read in kinds {
                assert_eq!(PrivateKey::read(read, &pkcs8).is_some(), made == read, "{made:?} as {read:?}");
            }
        }
    }
}
