// Package invoicedb keeps accounts, closings, invoices, the ledger and credit in
// Postgres.
//
// It owns the tables accounts, closings, closing_readings, closing_slots,
// invoice_series, invoices, invoice_lines, entries, postings, promo_grants, promo_uses and
// tenant_accrued, and the transaction of a closing. It never reads a reading,
// never prices anything and never decides when to close.
//
// Invariants:
//   - A closing is one transaction: closing readings, invoice, number, ledger
//     entries, credit used and the job that follows, all or none.
//   - A tenant's closings are numbered without gaps; whoever takes the next number
//     wins, anybody else gets ErrConflict and reads again.
//   - The number of an invoice is the last thing it gets, under the lock of its
//     series, so numbers have no gap and no duplicate.
//   - Everything but accounts, the series' counter and the accrued cache is only
//     ever added to. Since it is, what stood at a closing is read again by its seq.
//   - Credit used never exceeds credit had: the account's row is locked while
//     credit is spent. What no later cut can use is booked back by the closing
//     that passes its end.
//   - While a closing is recorded, no version of its plan is published.
package invoicedb
