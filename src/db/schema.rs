//! The tables, as both databases have them (`migrations/`), and `keystore`, which only SQLite has. Named only in `store.rs` files.

diesel::table! {
    users (id) {
        id -> Text, username -> Text, email -> Text, email_verified -> Bool, name -> Text,
        role -> Text, locale -> Nullable<Text>, theme -> Text, password_hash -> Text,
        must_change_password -> Bool, disabled_at -> Nullable<BigInt>, created_at -> BigInt,
        failures_in_a_row -> Integer,
    }
}

diesel::table! {
    logins (id) {
        id -> Text, user_id -> Text, kind -> Text, device -> Text, ip -> Text,
        started_at -> BigInt, auth_time -> BigInt, last_activity_at -> BigInt,
        expires_at -> BigInt, ended_at -> Nullable<BigInt>, ended_cause -> Nullable<Text>,
    }
}

diesel::table! {
    rotating_tokens (id) {
        id -> Binary, login_id -> Text, purpose -> Text, parent_id -> Nullable<Binary>,
        counter -> BigInt, issued_at -> BigInt, expires_at -> BigInt,
        used_at -> Nullable<BigInt>, superseded_at -> Nullable<BigInt>,
        successor_id -> Nullable<Binary>, successor_given_at -> Nullable<BigInt>,
        successors -> Integer,
    }
}

diesel::table! {
    revocations (seq) {
        seq -> BigInt, subject -> Text, cause -> Text, revoked_at -> BigInt, expires_at -> BigInt,
    }
}

diesel::table! {
    uncounted_ends (login_id) {
        login_id -> Text, kind -> Text, cause -> Text, lasted -> BigInt, ended_at -> BigInt,
    }
}

diesel::table! {
    keys (id) {
        id -> Text, purpose -> Text, algorithm -> Text, sealed -> Binary, created_at -> BigInt,
        signs_from -> BigInt,
    }
}

diesel::table! {
    audit_events (id) {
        id -> Text, at -> BigInt, kind -> Text, user_id -> Nullable<Text>,
        actor_id -> Nullable<Text>, login_id -> Nullable<Text>, device -> Nullable<Text>,
        ip -> Nullable<Text>, cause -> Nullable<Text>, detail -> Nullable<Text>,
    }
}

diesel::table! {
    daily_figures (day, name) { day -> BigInt, name -> Text, total -> BigInt, }
}

diesel::table! {
    keystore (key) { key -> Text, value -> Text, expires_at -> BigInt, }
}

diesel::table! {
    personal_tokens (id) {
        id -> Text, user_id -> Text, login_id -> Nullable<Text>, name -> Text, scopes -> Text,
        mac -> Binary, created_at -> BigInt, expires_at -> BigInt,
        last_used_at -> Nullable<BigInt>, last_used_ip -> Nullable<Text>,
        revoked_at -> Nullable<BigInt>,
    }
}

diesel::joinable!(logins -> users (user_id));
diesel::joinable!(rotating_tokens -> logins (login_id));
diesel::joinable!(personal_tokens -> users (user_id));
diesel::joinable!(personal_tokens -> logins (login_id));
diesel::allow_tables_to_appear_in_same_query!(
    users,
    logins,
    rotating_tokens,
    personal_tokens,
    audit_events
);

/// The names of those that both databases have.
pub const TABLES: [&str; 9] = [
    "users",
    "logins",
    "rotating_tokens",
    "revocations",
    "uncounted_ends",
    "keys",
    "audit_events",
    "daily_figures",
    "personal_tokens",
];
