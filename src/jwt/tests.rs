//! Tokens of all kinds, and providers that rotate their keys, are slow, large or away.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use ring::{hmac, rsa};
use serde_json::json;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const ISSUER: &str = "https://id.example";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({ "sub": "ann", "iss": ISSUER, "aud": ["other", "us"], "exp": now() + 600, "role": "x" })
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn token(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = BASE64.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn hs256(claims: &Value) -> String {
    signed_by(SECRET.as_bytes(), claims)
}

fn signed_by(secret: &[u8], claims: &Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    token(&header, claims, |message| hmac::sign(&key, message).as_ref().to_vec())
}

/// A provider's key of the elliptic kind.
struct Ec(EcdsaKeyPair, String);

impl Ec {
    fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap(), id.to_owned())
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "kid": self.1, "use": "sig", "alg": "ES256",
            "x": BASE64.encode(x), "y": BASE64.encode(y) })
    }

    fn token(&self, claims: &Value) -> String {
        self.token_under(&json!({ "alg": "ES256", "kid": self.1 }), claims)
    }

    fn token_under(&self, header: &Value, claims: &Value) -> String {
        let sign = |message: &[u8]| self.0.sign(&SystemRandom::new(), message).unwrap();
        token(header, claims, |message| sign(message).as_ref().to_vec())
    }
}

/// A provider's RSA key; ring makes none.
struct Rsa(RsaKeyPair);

impl Rsa {
    fn new() -> Self {
        let made = std::process::Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
            .args(["-outform", "DER"])
            .output();
        let der = made.unwrap().stdout;
        // its versions write one or the other
        Self(RsaKeyPair::from_pkcs8(&der).or_else(|_| RsaKeyPair::from_der(&der)).unwrap())
    }

    fn components(&self) -> rsa::PublicKeyComponents<Vec<u8>> {
        self.0.public().into()
    }

    fn jwk(&self) -> Value {
        let public = self.components();
        json!({ "kty": "RSA", "kid": "rsa", "n": BASE64.encode(public.n), "e": BASE64.encode(public.e) })
    }

    fn token(&self, claims: &Value) -> String {
        let mut signature = vec![0; self.0.public().modulus_len()];
        token(&json!({ "alg": "RS256", "kid": "rsa" }), claims, |message| {
            self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
            signature
        })
    }
}

fn of_secret() -> JwtConfig {
    JwtConfig {
        secret: Some(SECRET.to_owned()),
        issuers: vec!["https://old.example".to_owned(), ISSUER.to_owned()],
        audiences: vec!["us".to_owned()],
        ..JwtConfig::default()
    }
}

/// A provider that can be changed while it runs.
#[derive(Clone, Default)]
struct Provider {
    /// Status and body.
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    fn publish(&self, keys: &[Value]) {
        *self.answer.lock() = (200, json!({ "keys": keys }).to_string());
    }

    fn fail(&self, status: u16, body: String) {
        *self.answer.lock() = (status, body);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Serves at an address of its own.
    async fn start(&self) -> String {
        let this = self.clone();
        let answer = move || {
            this.asked.fetch_add(1, Ordering::SeqCst);
            let (status, body) = this.answer.lock().clone();
            async move { (http::StatusCode::from_u16(status).unwrap(), body) }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/keys", get(answer));
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}/keys?tenant=1")
    }

    /// What trusts it.
    async fn jwt(&self, pace: Pace) -> Jwt {
        let jwks_url = Some(self.start().await);
        let config = JwtConfig { secret: None, jwks_url, ..of_secret() };
        Jwt::with_pace(config, pace, KeyMetrics::default()).unwrap()
    }
}

/// A set in a file, which can be changed, and for which no clock runs while it is read.
struct KeyFile(std::path::PathBuf);

impl KeyFile {
    fn of(keys: &[Value]) -> Self {
        let name = format!("quicket-keys-{}", rand::random::<u64>());
        let this = Self(std::env::temp_dir().join(name));
        this.publish(keys);
        this
    }

    fn publish(&self, keys: &[Value]) {
        std::fs::write(&self.0, json!({ "keys": keys }).to_string()).unwrap();
    }

    /// What trusts it.
    fn jwt(&self, metrics: &KeyMetrics) -> Jwt {
        let config = JwtConfig { secret: None, jwks_file: Some(self.0.clone()), ..of_secret() };
        Jwt::measured(config, metrics.clone()).unwrap()
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Asks as often as one wants.
const EAGER: Pace = Pace { at_most_every: Duration::ZERO, fresh_for: Duration::from_secs(600) };

#[tokio::test]
async fn tokens_of_every_algorithm_say_whose_they_are() {
    let (ec, rsa) = (Ec::new("ec"), Rsa::new());
    let provider = Provider::default();
    provider.publish(&[rsa.jwk(), ec.jwk()]);
    let public = provider.jwt(EAGER).await;
    let secret = Jwt::new(of_secret()).unwrap();
    let claims = claims();
    let unnamed = ec.token_under(&json!({ "alg": "ES256" }), &claims);
    for (jwt, token) in [
        (&secret, hs256(&claims)),
        (&public, ec.token(&claims)),
        (&public, rsa.token(&claims)),
        (&public, unnamed),
    ] {
        let said = jwt.verify(&token).await.unwrap();
        assert_eq!((said.subject.as_str(), said.issuer.as_deref()), ("ann", Some(ISSUER)));
        assert_eq!(said.all, claims);
        let left = said.expires.duration_since(SystemTime::now()).unwrap().as_secs();
        assert!((625..=630).contains(&left), "exp and the leeway: {left}");
    }
}

#[tokio::test]
async fn what_a_token_must_say_it_must_say() {
    let jwt = Jwt::new(of_secret()).unwrap();
    let leeway = of_secret().leeway.as_secs();
    for (claims, why) in [
        (with("exp", now() - leeway - 5), TokenError::Expired),
        (with("nbf", now() + leeway + 5), TokenError::NotYetValid),
        (with("iss", "https://evil.example"), TokenError::Invalid),
        (with("aud", "them"), TokenError::Invalid),
        (with("sub", ""), TokenError::Invalid),
        (with("sub", 7), TokenError::Invalid),
        (with("exp", "soon"), TokenError::Invalid),
        (with("nbf", "then"), TokenError::Invalid),
        (without("exp"), TokenError::Invalid),
        (without("sub"), TokenError::Invalid),
        (without("iss"), TokenError::Invalid),
        (without("aud"), TokenError::Invalid),
    ] {
        assert_eq!(jwt.verify(&hs256(&claims)).await, Err(why), "{claims}");
    }
    // clocks differ
    for claims in [with("exp", now() - leeway + 5), with("nbf", now() + leeway - 5)] {
        assert!(jwt.verify(&hs256(&claims)).await.is_ok(), "{claims}");
    }
    // RFC 7519 4.1.3: a token for somebody is not for whoever has no name
    let nobody = JwtConfig { audiences: Vec::new(), ..of_secret() };
    let nobody = Jwt::new(nobody).unwrap();
    assert_eq!(nobody.verify(&hs256(&claims())).await, Err(TokenError::Invalid));
    assert!(nobody.verify(&hs256(&without("aud"))).await.is_ok());
}

#[tokio::test]
async fn tokens_that_nobody_has_signed_are_refused() {
    let rsa = Rsa::new();
    let provider = Provider::default();
    provider.publish(&[rsa.jwk()]);
    let (public, secret) = (provider.jwt(EAGER).await, Jwt::new(of_secret()).unwrap());
    let claims = claims();
    let good = hs256(&claims);
    let unsigned = |alg: &str| token(&json!({ "alg": alg }), &claims, |_| Vec::new());
    let parts: Vec<_> = good.split('.').collect();
    let other = BASE64.encode(with("sub", "bob").to_string());
    let critical = json!({ "alg": "HS256", "crit": ["x"], "x": 1 });
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let critical = token(&critical, &claims, |m| hmac::sign(&key, m).as_ref().to_vec());
    for bad in [
        String::new(),
        "a.b.c".to_owned(),
        "..".to_owned(),
        unsigned("none"),
        unsigned("None"),
        unsigned("HS256"),
        unsigned("HS512"),
        unsigned("RS256"),
        format!("{}.{other}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{good}A"),
        format!("{good}.x"),
        signed_by(b"another secret of thirty-two bytes", &claims),
        rsa.token(&claims),
        critical,
        hs256(&with("padding", "x".repeat(MAX_TOKEN_BYTES))),
    ] {
        assert_eq!(secret.verify(&bad).await, Err(TokenError::Invalid), "{bad}");
    }
    // the public key as a secret (algorithm confusion), in each form in which it may be known
    let public_key = rsa.components();
    for secret in
        [public_key.n.clone(), rsa.jwk().to_string().into(), rsa.0.public().as_ref().into()]
    {
        let confused = signed_by(&secret, &claims);
        assert_eq!(public.verify(&confused).await, Err(TokenError::Invalid));
    }
    assert_eq!(public.verify(&unsigned("none")).await, Err(TokenError::Invalid));
    let mut altered = rsa.token(&claims);
    altered.replace_range(altered.len() - 8.., "AAAAAAAA");
    assert_eq!(public.verify(&altered).await, Err(TokenError::Invalid));
    assert!(secret.verify(&good).await.is_ok() && public.verify(&rsa.token(&claims)).await.is_ok());
}

#[tokio::test]
async fn a_key_that_is_rotated_in_is_found_and_one_that_is_rotated_out_is_forgotten() {
    let (old, new) = (Ec::new("old"), Ec::new("new"));
    let provider = Provider::default();
    provider.publish(&[old.jwk()]);
    let jwt = provider.jwt(EAGER).await;
    assert!(jwt.verify(&old.token(&claims())).await.is_ok());
    assert_eq!(jwt.verify(&new.token(&claims())).await, Err(TokenError::UnknownKey));
    provider.publish(&[new.jwk()]);
    assert!(jwt.verify(&new.token(&claims())).await.is_ok(), "asked for because of its name");
    assert_eq!(jwt.verify(&old.token(&claims())).await, Err(TokenError::UnknownKey));
    let forged = new.token_under(&json!({ "alg": "ES256", "kid": "old" }), &claims());
    assert_eq!(jwt.verify(&forged).await, Err(TokenError::UnknownKey));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_taken_back_is_forgotten_in_time_though_no_token_comes() {
    let (old, new) = (Ec::new("old"), Ec::new("new"));
    let file = KeyFile::of(&[old.jwk()]);
    let jwt = file.jwt(&KeyMetrics::default());
    assert!(jwt.verify(&old.token(&claims())).await.is_ok());
    file.publish(&[new.jwk()]);
    tokio::time::sleep(Pace::default().fresh_for + Duration::from_secs(1)).await;
    assert_eq!(jwt.verify(&old.token(&claims())).await, Err(TokenError::UnknownKey));
    assert!(jwt.verify(&new.token(&claims())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn after_a_process_has_slept_tokens_wait_for_the_keys_of_now() {
    let (old, new) = (Ec::new("old"), Ec::new("new"));
    let file = KeyFile::of(&[old.jwk()]);
    let jwt = file.jwt(&KeyMetrics::default());
    assert!(jwt.verify(&old.token(&claims())).await.is_ok());
    file.publish(&[new.jwk()]);
    tokio::time::advance(Duration::from_secs(3 * 86_400)).await;
    let (old, new) = (old.token(&claims()), new.token(&claims()));
    let all = [&old, &new, &old].map(|token| jwt.verify(token));
    let all = futures_util::future::join_all(all).await;
    assert_eq!((&all[0], &all[2]), (&Err(TokenError::UnknownKey), &Err(TokenError::UnknownKey)));
    assert!(all[1].is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_count_on_while_their_provider_is_away_for_long_and_it_is_asked_now_and_then() {
    let (old, new) = (Ec::new("old"), Ec::new("new"));
    let file = KeyFile::of(&[old.jwk()]);
    let metrics = KeyMetrics::default();
    let jwt = file.jwt(&metrics);
    assert!(jwt.verify(&old.token(&claims())).await.is_ok());
    let read = metrics.read.get();
    assert!(read.abs_diff(now().cast_signed()) < 600, "{read}");
    std::fs::write(&file.0, "<html>").unwrap();
    tokio::time::sleep(Duration::from_secs(3 * 3_600)).await;
    let failures = metrics.failures.get();
    assert!((100..200).contains(&failures), "about once a minute: {failures}");
    // who comes does not wait for a provider that has just been asked
    assert!(jwt.verify(&old.token(&claims())).await.is_ok());
    assert_eq!((metrics.failures.get(), metrics.read.get()), (failures, read));
    file.publish(&[new.jwk()]);
    tokio::time::sleep(Duration::from_secs(80)).await;
    assert_eq!(jwt.verify(&old.token(&claims())).await, Err(TokenError::UnknownKey));
    assert!(jwt.verify(&new.token(&claims())).await.is_ok());
    // and never again when nobody wants to know
    std::fs::write(&file.0, "<html>").unwrap();
    drop(jwt);
    let failures = metrics.failures.get();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(metrics.failures.get(), failures);
}

#[tokio::test]
async fn a_provider_that_takes_its_last_key_back_means_it() {
    let (ec, stranger) = (Ec::new("ec"), Ec::new("stranger"));
    let symmetric = json!({ "kty": "oct", "kid": "ec", "k": BASE64.encode(SECRET) });
    for none in [&[][..], &[symmetric]] {
        let provider = Provider::default();
        provider.publish(&[ec.jwk()]);
        let jwt = provider.jwt(EAGER).await;
        assert!(jwt.verify(&ec.token(&claims())).await.is_ok());
        provider.publish(none);
        // asked because of its name
        let refused = jwt.verify(&stranger.token(&claims())).await;
        assert_eq!(refused, Err(TokenError::UnknownKey), "{none:?}");
        let refused = jwt.verify(&ec.token(&claims())).await;
        assert_eq!(refused, Err(TokenError::UnknownKey), "{none:?}");
        provider.publish(&[ec.jwk()]);
        assert!(jwt.verify(&ec.token(&claims())).await.is_ok(), "{none:?}");
    }
}

#[tokio::test]
async fn made_up_key_names_do_not_make_us_ask_again_and_again() {
    let (ec, stranger) = (Ec::new("ec"), Ec::new("stranger"));
    let provider = Provider::default();
    provider.publish(&[ec.jwk()]);
    let jwt = provider.jwt(Pace::default()).await;
    assert!(jwt.verify(&ec.token(&claims())).await.is_ok());
    let token = stranger.token(&claims());
    let all = (0..100).map(|_| jwt.verify(&token));
    for refused in futures_util::future::join_all(all).await {
        assert_eq!(refused, Err(TokenError::UnknownKey));
    }
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn keys_stay_while_their_provider_is_away_or_talks_nonsense() {
    let (ec, stranger) = (Ec::new("ec"), Ec::new("stranger"));
    let provider = Provider::default();
    provider.publish(&[ec.jwk()]);
    let jwt = provider.jwt(EAGER).await;
    assert!(jwt.verify(&ec.token(&claims())).await.is_ok());
    let large = json!({ "keys": [stranger.jwk()], "x": "x".repeat(fetch::MAX_DOCUMENT_BYTES) });
    let set = json!({ "keys": [stranger.jwk()] }).to_string();
    for (status, body) in [
        (500, set.clone()),
        (302, set),
        (200, String::new()),
        (200, "<html>".to_owned()),
        (200, r#"{"keys":7}"#.to_owned()),
        (200, large.to_string()),
    ] {
        let before = provider.asked();
        provider.fail(status, body);
        let refused = jwt.verify(&stranger.token(&claims())).await;
        assert_eq!(refused, Err(TokenError::UnknownKey), "{status}");
        assert!(provider.asked() > before, "it was asked");
        assert!(jwt.verify(&ec.token(&claims())).await.is_ok(), "{status}");
    }
    provider.publish(&[stranger.jwk()]);
    assert!(jwt.verify(&stranger.token(&claims())).await.is_ok());
}

#[tokio::test]
async fn without_any_key_the_provider_is_to_blame_and_not_the_client() {
    let ec = Ec::new("ec");
    let provider = Provider::default();
    provider.fail(503, String::new());
    let jwt = provider.jwt(EAGER).await;
    assert_eq!(jwt.verify(&ec.token(&claims())).await, Err(TokenError::KeysUnavailable));
    provider.publish(&[ec.jwk()]);
    assert!(jwt.verify(&ec.token(&claims())).await.is_ok());
}

#[tokio::test]
async fn keys_that_are_not_for_us_are_left_out() {
    let ec = Ec::new("ec");
    let but = |name: &str, value: Value| {
        let mut jwk = ec.jwk();
        jwk[name] = value;
        jwk
    };
    let symmetric = json!({ "kty": "oct", "kid": "ec", "k": BASE64.encode(SECRET) });
    for bad in [
        but("use", json!("enc")),
        but("alg", json!("ES384")),
        but("crv", json!("P-384")),
        but("key_ops", json!(["sign"])),
        but("x", json!("!")),
        symmetric,
        json!({ "kty": "future" }),
        json!(7),
    ] {
        let set = json!({ "keys": [bad] }).to_string();
        assert_eq!(keys::read(set.as_bytes()).unwrap().len(), 0, "{set}");
        let set = json!({ "keys": [bad, ec.jwk()] }).to_string();
        assert_eq!(keys::read(set.as_bytes()).unwrap().len(), 1, "{set}");
    }
}

#[tokio::test]
async fn secrets_and_keys_may_lie_in_files() {
    let folder = std::env::temp_dir().join(format!("quicket-jwt-{}", rand::random::<u64>()));
    std::fs::create_dir(&folder).unwrap();
    let path = |name: &str| Some(folder.join(name));
    std::fs::write(folder.join("secret"), format!("{SECRET}\n")).unwrap();
    std::fs::write(folder.join("short"), "short\n").unwrap();
    std::fs::write(folder.join("empty"), r#"{"keys":[]}"#).unwrap();
    let ec = Ec::new("ec");
    std::fs::write(folder.join("keys"), json!({ "keys": [ec.jwk()] }).to_string()).unwrap();
    let none = || JwtConfig { secret: None, ..of_secret() };
    let jwt = Jwt::new(JwtConfig { secret_file: path("secret"), ..none() }).unwrap();
    assert!(jwt.verify(&hs256(&claims())).await.is_ok());
    let of_file = JwtConfig { jwks_file: path("keys"), ..none() };
    let jwt = Jwt::with_pace(of_file, EAGER, KeyMetrics::default()).unwrap();
    assert!(jwt.verify(&ec.token(&claims())).await.is_ok());
    let new = Ec::new("new");
    std::fs::write(folder.join("keys"), json!({ "keys": [new.jwk()] }).to_string()).unwrap();
    assert!(jwt.verify(&new.token(&claims())).await.is_ok());
    for config in [
        none(),
        JwtConfig { secret_file: path("short"), ..none() },
        JwtConfig { secret_file: path("missing"), ..none() },
        JwtConfig { jwks_file: path("secret"), ..none() },
        JwtConfig { jwks_file: path("missing"), ..none() },
        JwtConfig { jwks_file: path("empty"), ..none() },
    ] {
        assert!(matches!(Jwt::new(config), Err(ServeError::Jwt(_))));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
