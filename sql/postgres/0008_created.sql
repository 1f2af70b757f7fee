-- When the resource of an epoch or an allocation was created, as labels write it
-- (RFC 3339, UTC, to the second): a price plan may keep old prices for older
-- resources. What is here already has '': nobody knows, and it is priced as if
-- it were new.
ALTER TABLE epochs
    ADD COLUMN created text NOT NULL DEFAULT '' CHECK (created = '' OR created ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$');

ALTER TABLE allocations
    ADD COLUMN created text NOT NULL DEFAULT '' CHECK (created = '' OR created ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$');
