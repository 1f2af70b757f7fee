package money

import (
	"errors"
	"fmt"
	"strings"
)

// Currency is a code of ISO 4217, such as "EUR".
type Currency string

// ErrCurrency is wrapped where a code is not a currency, or where two
// currencies meet in one sum.
var ErrCurrency = errors.New("wrong currency")

// codes are the currencies in use, by the number of digits of their minor unit.
var codes = [...]string{
	0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
	2: "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY " +
		"COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS " +
		"INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR " +
		"MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD " +
		"SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG",
	3: "BHD IQD JOD KWD LYD OMR TND",
	4: "CLF UYW",
}

var exponents = func() map[Currency]int {
	m := make(map[Currency]int)
	for digits, list := range codes {
		for _, code := range strings.Fields(list) {
			m[Currency(code)] = digits
		}
	}
	return m
}()

// ParseCurrency reads an ISO 4217 code in capitals. The error wraps ErrCurrency.
func ParseCurrency(s string) (Currency, error) {
	if _, ok := exponents[Currency(s)]; !ok {
		return "", fmt.Errorf("%w: %q is not a code of ISO 4217 such as EUR", ErrCurrency, s)
	}
	return Currency(s), nil
}

// Digits is the number of decimals of the minor unit: 0 for JPY, 3 for KWD, 2
// for most and for a code that is not known.
func (c Currency) Digits() int {
	if n, ok := exponents[c]; ok {
		return n
	}
	return 2
}

// minorPerUnit is 10^Digits.
func (c Currency) minorPerUnit() uint64 { return pow10(c.Digits()) }
