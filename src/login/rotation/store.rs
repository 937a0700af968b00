use std::collections::HashMap;

use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text};

use super::together::Presented;
use super::{ID_LENGTH, Purpose, Rules, TokenId};
use crate::account::User;
use crate::clock::Timestamp;
use crate::db::schema::{logins, rotating_tokens, users};
use crate::db::{AnyConnection, directly};
use crate::login::Login;

#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = rotating_tokens)]
pub struct Token {
    pub id: Vec<u8>,
    pub login_id: String,
    pub purpose: String,
    pub parent_id: Option<Vec<u8>>,
    pub counter: i64,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    pub used_at: Option<Timestamp>,
    pub superseded_at: Option<Timestamp>,
    pub successor_id: Option<Vec<u8>>,
    pub successor_given_at: Option<Timestamp>,
    pub successors: i32,
}

impl Token {
    pub fn new(
        token: &TokenId,
        login_id: &str,
        parent_id: Option<&[u8]>,
        counter: i64,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        Self {
            id: token.id.to_vec(),
            login_id: login_id.to_owned(),
            purpose: token.purpose.name().to_owned(),
            parent_id: parent_id.map(<[u8]>::to_vec),
            counter,
            issued_at: now,
            expires_at,
            used_at: None,
            superseded_at: None,
            successor_id: None,
            successor_given_at: None,
            successors: 0,
        }
    }

    /// Ids in the table are ours and so of the right length; anything else matches no token.
    pub fn id_bytes(&self) -> [u8; ID_LENGTH] {
        self.id.as_slice().try_into().unwrap_or_default()
    }
}

pub fn insert(conn: &mut AnyConnection, token: &Token) -> QueryResult<()> {
    let insertion = diesel::insert_into(rotating_tokens::table).values(token);
    directly!(conn, |conn| insertion.execute(conn)).map(drop)
}

#[diesel::declare_sql_function]
extern "SQL" {
    /// See its migration.
    fn advance_tokens(
        presented: Array<Binary>,
        of_purpose: Text,
        of_logins: Array<Nullable<Text>>,
        made_by: Array<BigInt>,
        successors: Array<Binary>,
        ends: Array<BigInt>,
        at: Array<BigInt>,
    ) -> Nullable<Array<Nullable<BigInt>>>;
}

/// What is to come of a refresh token.
pub struct Plan<'a> {
    pub presented: &'a Presented,
    /// When it must have been made at the latest.
    pub made_by: Timestamp,
    pub successor: TokenId,
    /// When the successor ends at the latest.
    pub ends: Timestamp,
}

/// When the successor ends, when the presented token was made, and whose login it is.
pub type Advanced = (Timestamp, Timestamp, Login, User);

/// Points refresh tokens at successors, each if nothing but rule 1 applies to it.
pub fn advance(conn: &mut PgConnection, plans: &[Plan<'_>]) -> QueryResult<Vec<Option<Advanced>>> {
    let each = || plans.iter();
    let ends: Option<Vec<Option<Timestamp>>> = diesel::select(advance_tokens(
        each()
            .map(|plan| plan.presented.token.as_bytes())
            .collect::<Vec<_>>(),
        Purpose::Refresh.name(),
        each()
            .map(|plan| plan.presented.of_login.as_deref())
            .collect::<Vec<_>>(),
        each().map(|plan| plan.made_by).collect::<Vec<_>>(),
        each()
            .map(|plan| plan.successor.as_bytes())
            .collect::<Vec<_>>(),
        each().map(|plan| plan.ends).collect::<Vec<_>>(),
        each().map(|plan| plan.presented.at).collect::<Vec<_>>(),
    ))
    .get_result(conn)?;
    let plans = each().zip(ends.unwrap_or_default());
    let done = plans.clone().filter(|(_, ends)| ends.is_some());
    let moved: Vec<&[u8]> = done
        .map(|(plan, _)| plan.presented.token.as_bytes())
        .collect();
    if moved.is_empty() {
        return Ok(plans.map(|_| None).collect());
    }
    // Read after the locks were waited for: as the login is now.
    let found: Vec<(Vec<u8>, Timestamp, Login, User)> = rotating_tokens::table
        .inner_join(logins::table.inner_join(users::table))
        .filter(rotating_tokens::id.eq_any(moved))
        .select((
            rotating_tokens::id,
            rotating_tokens::issued_at,
            Login::as_select(),
            User::as_select(),
        ))
        .load(conn)?;
    let mut found: HashMap<_, _> = found
        .into_iter()
        .map(|(id, issued_at, login, user)| (id, (issued_at, login, user)))
        .collect();
    let advanced = plans.map(|(plan, ends)| {
        let ends = ends?;
        let (issued_at, login, user) = found.remove(plan.presented.token.as_bytes())?;
        Some((ends, issued_at, login, user))
    });
    Ok(advanced.collect())
}

/// Keeps those who move a login's tokens or end it in line until the transaction ends: an end is an
/// `UPDATE` of the same row. What is read afterwards is what the one before left. SQLite has a single
/// writer anyway.
pub fn lock_login_of(conn: &mut AnyConnection, token: &TokenId) -> QueryResult<()> {
    if let AnyConnection::Postgres(conn) = conn {
        let of_token = rotating_tokens::table
            .find(token.as_bytes())
            .select(rotating_tokens::login_id);
        logins::table
            .filter(logins::id.eq_any(of_token))
            .select(logins::id)
            .for_update()
            .first::<String>(conn)
            .optional()?;
    }
    Ok(())
}

/// A token with its login, whose it is, and how its kin fare: all that a rotation looks at.
pub struct Found {
    pub token: Token,
    pub login: Login,
    pub user: User,
    /// Another successor of the same parent has been used, this one not.
    pub sibling_won: bool,
    /// A successor of it has been used.
    pub successor_used: bool,
}

diesel::alias!(rotating_tokens as kin: Kin, rotating_tokens as child: Child);

/// One query, since every rotation begins with it.
pub fn load(conn: &mut AnyConnection, token: &TokenId) -> QueryResult<Option<Found>> {
    let used_kin = kin
        .filter(
            kin.field(rotating_tokens::parent_id)
                .eq(rotating_tokens::parent_id),
        )
        .filter(kin.field(rotating_tokens::used_at).is_not_null())
        .select(kin.field(rotating_tokens::counter));
    let used_child = child
        .filter(
            child
                .field(rotating_tokens::parent_id)
                .eq(rotating_tokens::id.nullable()),
        )
        .filter(child.field(rotating_tokens::used_at).is_not_null())
        .select(child.field(rotating_tokens::counter));
    let query = rotating_tokens::table
        .inner_join(logins::table.inner_join(users::table))
        .filter(rotating_tokens::id.eq(token.as_bytes()))
        .filter(rotating_tokens::purpose.eq(token.purpose.name()));
    let found: Option<(Token, Login, User, bool, bool)> = directly!(conn, |conn| query
        .select((
            Token::as_select(),
            Login::as_select(),
            User::as_select(),
            exists(used_kin),
            exists(used_child),
        ))
        .first(conn))
    .optional()?;
    Ok(
        found.map(|(token, login, user, kin_used, successor_used)| Found {
            sibling_won: kin_used && token.used_at.is_none(),
            token,
            login,
            user,
            successor_used,
        }),
    )
}

/// Makes a successor and points the presented token at it. The counter, not the clock, is the order.
pub fn give_successor(
    conn: &mut AnyConnection,
    token: &Token,
    login: &Login,
    rules: Rules,
    now: Timestamp,
) -> QueryResult<Token> {
    let purpose = match token.purpose == Purpose::Remember.name() {
        true => Purpose::Remember,
        false => Purpose::Refresh,
    };
    let id = TokenId::new(purpose, now);
    let expires_at = match rules.lifetime {
        Some(lifetime) => login.expires_at.min(now + lifetime),
        None => token.expires_at,
    };
    let successor = Token::new(
        &id,
        &token.login_id,
        Some(&token.id),
        token.counter + 1,
        expires_at,
        now,
    );
    insert(conn, &successor)?;
    let change = diesel::update(rotating_tokens::table.find(&token.id)).set((
        rotating_tokens::used_at.eq(token.used_at.or(Some(now))),
        rotating_tokens::superseded_at.eq(token.superseded_at.or(Some(now))),
        rotating_tokens::successor_id.eq(&successor.id),
        rotating_tokens::successor_given_at.eq(now),
        rotating_tokens::successors.eq(token.successors + 1),
    ));
    directly!(conn, |conn| change.execute(conn))?;
    Ok(successor)
}

/// When the latest successors of a login were made, the newest first, at most `most` of them.
pub fn latest_issued(
    conn: &mut AnyConnection,
    login_id: &str,
    most: usize,
) -> QueryResult<Vec<Timestamp>> {
    rotating_tokens::table
        .filter(rotating_tokens::login_id.eq(login_id))
        .filter(rotating_tokens::parent_id.is_not_null())
        .order(rotating_tokens::issued_at.desc())
        .limit(i64::try_from(most).unwrap_or(i64::MAX))
        .select(rotating_tokens::issued_at)
        .load(conn)
}

/// Follows a line from a superseded token to its newest: past siblings by way of the one that was
/// used, which need not be the latest.
pub fn newest_from(conn: &mut AnyConnection, mut token: Token) -> QueryResult<Token> {
    while let Some(latest) = &token.successor_id {
        let winner = match token.successors {
            1 => None,
            _ => rotating_tokens::table
                .filter(rotating_tokens::parent_id.eq(&token.id))
                .filter(rotating_tokens::used_at.is_not_null())
                .select(Token::as_select())
                .first(conn)
                .optional()?,
        };
        token = match winner {
            Some(winner) => winner,
            None => rotating_tokens::table
                .find(latest)
                .select(Token::as_select())
                .first(conn)?,
        };
    }
    Ok(token)
}

/// Notes that a token is in use.
pub fn set_used(conn: &mut AnyConnection, token: &Token, now: Timestamp) -> QueryResult<()> {
    diesel::update(rotating_tokens::table.find(&token.id))
        .set(rotating_tokens::used_at.eq(now))
        .execute(conn)
        .map(drop)
}

/// Whether a login has a token of that purpose that would still be taken.
pub fn has_live(
    conn: &mut AnyConnection,
    login_id: &str,
    purpose: Purpose,
    now: Timestamp,
) -> QueryResult<bool> {
    Ok(latest_live(conn, login_id, purpose, now)?.is_some())
}

/// The token of a login that would still be taken; of siblings, the one given last.
pub fn latest_live(
    conn: &mut AnyConnection,
    login_id: &str,
    purpose: Purpose,
    now: Timestamp,
) -> QueryResult<Option<Token>> {
    rotating_tokens::table
        .filter(rotating_tokens::login_id.eq(login_id))
        .filter(rotating_tokens::purpose.eq(purpose.name()))
        .filter(rotating_tokens::superseded_at.is_null())
        .filter(rotating_tokens::expires_at.gt(now))
        .order((
            rotating_tokens::counter.desc(),
            rotating_tokens::issued_at.desc(),
        ))
        .select(Token::as_select())
        .first(conn)
        .optional()
}

/// Forgets every token of that purpose that a login has.
pub fn forget(conn: &mut AnyConnection, login_id: &str, purpose: Purpose) -> QueryResult<()> {
    let tokens = rotating_tokens::table
        .filter(rotating_tokens::login_id.eq(login_id))
        .filter(rotating_tokens::purpose.eq(purpose.name()));
    diesel::delete(tokens).execute(conn).map(drop)
}
