// Package portal is the web pages and the JSON API of the control plane.
//
// It owns routes, sessions, forms, pages and the shape of the API. It holds no
// rule of metering, pricing or admission: pages, API and command line call the
// same functions of the stores and runners.
//
// Invariants:
//   - No request of one tenant reads or changes what belongs to another: what is
//     foreign is answered like what does not exist.
//   - Every page works without JavaScript.
//   - A page is rendered whole before its first byte is sent.
package portal
