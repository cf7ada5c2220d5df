-- Every message changes its gateway's row. An index on what it changes would be changed too, on the page that others read to
-- find their gateways: serialisable transactions that do so at the same time contend. Without it, and with room left in
-- pages, an update stays within its page.
DROP INDEX device_by_seen;
ALTER TABLE device SET (fillfactor = 50);
