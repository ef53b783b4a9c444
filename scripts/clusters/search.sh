# A study that two processes share, on SQLite and PostgreSQL. Sourced by scripts/clusters.sh.

try_search() {
    local programs=(/usr/lib/postgresql/*/bin)
    postgres=$folder/postgres program=${programs[-1]}/pg_ctl
    install -d -o postgres "$postgres"
    chmod o+x "$folder"
    as_postgres "$program" -D "$postgres/data" -o "-A trust" initdb
    as_postgres "$program" -D "$postgres/data" -w -l "$postgres/log" \
        -o "-p 15432 -c listen_addresses=127.0.0.1 -k $postgres" start
    as_postgres "${programs[-1]}/createdb" -h 127.0.0.1 -p 15432 studies
    export POSTGRES=postgresql://postgres@127.0.0.1:15432/studies
    try_tests "a shared search" -m "slow or not slow" tests/test_search.py -k two_processes
}

end_search() { as_postgres "$program" -D "$postgres/data" -m immediate stop || true; }

as_postgres() { (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups "$@") >>"$folder/postgres.said" 2>&1; }
