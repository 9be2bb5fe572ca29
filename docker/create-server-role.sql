-- Run once by the image of Postgres, as its superuser, in the new database. The server gets a role of its own, which owns
-- the database and nothing else. Row-level security needs the role `threadkeep_tenant`, which only a superuser or a role
-- with CREATEROLE may create.
\getenv password POSTGRES_PASSWORD
CREATE ROLE threadkeep LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
CREATE ROLE threadkeep_tenant NOLOGIN;
GRANT threadkeep_tenant TO threadkeep;
ALTER DATABASE :"DBNAME" OWNER TO threadkeep;

-- The superuser has no password, and so no way in by TCP: docker compose exec postgres psql --username=postgres
ALTER ROLE CURRENT_USER PASSWORD NULL;
