// Package ledger is double entry: accounts, postings and the entries that hold
// them together.
//
// It owns the names of accounts and what makes an entry valid. It never stores
// anything (invoicedb does) and never computes a price or a tax.
//
// # Invariants
//
//   - The postings of an entry sum to zero in each currency. Entry.Check says so
//     before writing, a deferred constraint says so again at commit.
//   - A positive posting is a debit, a negative one a credit. What a tenant owes
//     is the sum of the postings on its receivable account; what it has left of
//     credit is minus the sum on its promo and prepaid accounts.
//   - Entries and postings are only ever added. What was wrong is corrected by
//     another entry. An entry with the idempotency key of another is the same
//     entry, told twice.
//   - Balances are sums of postings. Nothing keeps a balance beside them.
package ledger
