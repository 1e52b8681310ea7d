"""What Alembic runs: the migrations, inside the transaction that `schema.upgrade` has open."""

from alembic import context

transaction = context.config.attributes["transaction"]
context.configure(connection=transaction.connection)
with context.begin_transaction():
    context.run_migrations()
