/* Mitchell's operations on the bits of a float, at one scale: 23 mantissa bits in 32, or 52 in 64.
 *
 * Included once with SCALE 32 and once with SCALE 64. The narrow formats work at the 32-bit scale, where each of their
 * values is a normal float. Every function is straight-line code of integer selects, so that loops over it vectorise.
 *
 * The level of a float is its absolute value's bits, read as an integer: (exponent + BIAS) << M, plus the mantissa. It
 * is Mitchell's binary logarithm, shifted and scaled. Subnormals are normalised first, so levels reach below 0; `place`
 * is the level plus M << M and never negative.
 */
#if SCALE == 32
#define UINT uint32_t
#define INT int32_t
#define REAL float
#define M_ 23
#define NAME(name) name##_32
#else
#define UINT uint64_t
#define INT int64_t
#define REAL double
#define M_ 52
#define NAME(name) name##_64
#endif

#define SIGN ((UINT)1 << (SCALE - 1))
#define ONE_BIT ((UINT)1 << M_)
#define EXP_MAX (SIGN / ONE_BIT - 1)
#define BIAS (EXP_MAX / 2)
#define ONE NAME(ONE)
#define INFINITE (EXP_MAX << M_)
#define QUIET (INFINITE | ONE_BIT >> 1)
#define FRACTION (ONE_BIT - 1)
#define LIFT ((UINT)M_ << M_)            /* place - level */
#define INTEGER ((BIAS + M_) << M_)      /* bits of 2^M: adding it to a float leaves an integer in the mantissa */
#define ROUNDER (INTEGER | ONE_BIT >> 1) /* bits of 1.5 * 2^M, the same for either sign */
#define LIMIT ((UINT)(BIAS + M_))        /* 2^LIMIT is inf and 2^-LIMIT is 0 in every format */

FASTK_INLINE UINT NAME(bits)(REAL x) {
    UINT u;
    memcpy(&u, &x, sizeof u);
    return u;
}

FASTK_INLINE REAL NAME(real)(UINT u) {
    REAL x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* A select that stays one: with FP arithmetic on either side a compiler would branch, and not vectorise. */
FASTK_INLINE UINT NAME(pick)(int condition, UINT yes, UINT no) {
    UINT mask = 0 - (UINT)condition;
    return (yes & mask) | (no & ~mask);
}

/* What a format at this scale has: `drop` mantissa bits fewer, and levels from `least` up to `inf`, without it. */
struct NAME(format) {
    unsigned drop;
    UINT least, inf;
};

FASTK_INLINE UINT NAME(place)(UINT u) {
    UINT normalised = NAME(bits)(NAME(real)(INTEGER | (u & FRACTION)) - NAME(real)(INTEGER)) - ((BIAS - 1) << M_);
    return NAME(pick)(u < ONE_BIT, normalised, u + LIFT);
}

/* x of a mantissa M / 2^M, exact. */
FASTK_INLINE REAL NAME(fraction)(UINT place) { return NAME(real)(ONE | (place & FRACTION)) - (REAL)1; }

/* Nearest integer, ties to even; |x| < 2^(M-1). */
FASTK_INLINE INT NAME(nearest)(REAL x) { return (INT)(NAME(bits)(x + NAME(real)(ROUNDER)) - ROUNDER); }

/* x, from -limit to limit. Bits of floats of one sign compare as the floats do. */
FASTK_INLINE REAL NAME(clamped)(REAL x, REAL limit) {
    UINT u = NAME(bits)(x), most = NAME(bits)(limit), size = u & ~SIGN;
    return NAME(real)(NAME(pick)(size < most, size, most) | (u & SIGN));
}

/* The product of two floats in [0, 1], as floats. */
FASTK_INLINE REAL NAME(small_product)(REAL x, REAL y) {
    UINT u = NAME(bits)(x), v = NAME(bits)(y);
    return NAME(real)(NAME(pick)((u == 0) | (v == 0), 0, u + v - ONE));
}

/* 3/8 of Mitchell's product x (1 - x), in units of the last place: what log2(1 + x) is above x, and 2^x below 1 + x. */
FASTK_INLINE UINT NAME(bow)(UINT place) {
    REAL x = NAME(fraction)(place);
    return (UINT)NAME(nearest)(NAME(small_product)(x, 1 - x) * (REAL)(ONE_BIT / 8 * 3));
}

FASTK_INLINE UINT NAME(refine_log)(UINT place) { return place + NAME(bow)(place); }
FASTK_INLINE UINT NAME(refine_exp)(UINT place) { return place - NAME(bow)(place); }

/* Half to even, or down, at the last place that the format has. */
FASTK_INLINE UINT NAME(rounded)(UINT u, struct NAME(format) f, int down) {
    UINT mask = ((UINT)1 << f.drop) - 1;
    return (down ? u : u + (mask >> 1) + (u >> f.drop & 1 & mask)) & ~mask;
}

/* The float of level p + q - shift, or zero, or inf. */
FASTK_INLINE UINT NAME(packed)(UINT p, UINT q, UINT shift, struct NAME(format) f) {
    UINT sum = p + q;
    UINT level = NAME(rounded)(sum - shift, f, 0);
    UINT r = NAME(pick)((sum - shift >= f.inf) | (level >= f.inf), INFINITE, level);
    r = NAME(pick)((sum < shift) | (level < f.least), 0, r);
    return NAME(pick)(sum < p, INFINITE, r);
}

FASTK_INLINE UINT NAME(mul)(UINT a, UINT b, INT bias, int refined, struct NAME(format) f) {
    UINT sign = (a ^ b) & SIGN, u = a & ~SIGN, v = b & ~SIGN;
    UINT p = NAME(place)(u), q = NAME(place)(v);
    if (refined) {
        /* (1 + x)(1 + y) is 1 + (x + y) and xy, or 2 (x + y) and (1 - x)(1 - y): the first pass dropped the last term.
         */
        REAL x = NAME(fraction)(p), y = NAME(fraction)(q), s = x + y;
        int carry = NAME(bits)(s) >= ONE;
        REAL first = NAME(real)(NAME(pick)(carry, NAME(bits)(s) + ONE_BIT, NAME(bits)(1 + s)));
        REAL t = NAME(real)(NAME(pick)(carry, NAME(bits)(1 - x), NAME(bits)(x)));
        REAL w = NAME(real)(NAME(pick)(carry, NAME(bits)(1 - y), NAME(bits)(y)));
        p &= ~FRACTION;
        q = (q & ~FRACTION) + (NAME(bits)(first + NAME(small_product)(t, w)) - ONE);
    }
    UINT r = NAME(packed)(p + (UINT)bias, q, 2 * LIFT + ONE, f);
    int zero = (u == 0) | (v == 0), infinite = (u >= INFINITE) | (v >= INFINITE);
    r = NAME(pick)(infinite, INFINITE, NAME(pick)(zero, 0, r));
    return NAME(pick)((u > INFINITE) | (v > INFINITE) | (zero & infinite), QUIET, sign | r);
}

FASTK_INLINE UINT NAME(div)(UINT a, UINT b, INT bias, int refined, struct NAME(format) f) {
    UINT sign = (a ^ b) & SIGN, u = a & ~SIGN, v = b & ~SIGN;
    UINT p = NAME(place)(u), q = NAME(place)(v);
    const UINT top = (EXP_MAX + M_ + 1) << M_; /* above every place */
    if (refined) {
        /* (1 + x)/(1 + y) is 1 + x - y less y(x - y)/(1 + y), or (2 - (y - x))/2 less (1 - y)(y - x)/(2 (1 + y)). */
        REAL x = NAME(fraction)(p), y = NAME(fraction)(q);
        int below = (p & FRACTION) < (q & FRACTION);
        REAL gap = NAME(real)(NAME(bits)(x - y) & ~SIGN);
        REAL first = NAME(real)(NAME(pick)(below, NAME(bits)(2 - gap), NAME(bits)(1 + gap)));
        REAL t = NAME(real)(NAME(pick)(below, NAME(bits)(1 - y), NAME(bits)(y)));
        UINT term = NAME(bits)(NAME(small_product)(t, gap));
        term = NAME(pick)(term == 0, 0, term - (q & FRACTION));
        p = (p & ~FRACTION) + (NAME(bits)(first - NAME(real)(term)) - ONE) - NAME(pick)(below, ONE_BIT, 0);
        q &= ~FRACTION;
    }
    UINT r = NAME(packed)(p + (UINT)bias, top - q, top - ONE, f);
    int zero = (u == 0) | (v == INFINITE), infinite = (v == 0) | (u == INFINITE);
    r = NAME(pick)(infinite, INFINITE, NAME(pick)(zero, 0, r));
    return NAME(pick)((u > INFINITE) | (v > INFINITE) | (zero & infinite), QUIET, sign | r);
}

/* The halving drops a bit. */
FASTK_INLINE UINT NAME(sqrt)(UINT a, INT bias, int refined, struct NAME(format) f) {
    UINT p = NAME(place)(a & ~SIGN);
    if (refined)
        p = NAME(refine_log)(p);
    UINT r = (p - LIFT + ONE) >> 1;
    r = refined ? NAME(rounded)(NAME(refine_exp)(r), f, 0) : NAME(rounded)(r, f, 1) + (UINT)bias;
    r = NAME(pick)(a == INFINITE, INFINITE, r);
    return NAME(pick)((a & ~SIGN) == 0, a, NAME(pick)(a > INFINITE, QUIET, r));
}

FASTK_INLINE UINT NAME(rsqrt)(UINT a, INT bias, int refined, struct NAME(format) f) {
    UINT p = NAME(place)(a & ~SIGN);
    if (refined)
        p = NAME(refine_log)(p);
    UINT r = (3 * ONE + LIFT - p) >> 1;
    r = refined ? NAME(rounded)(NAME(refine_exp)(r), f, 0) : NAME(rounded)(r, f, 1) + (UINT)bias;
    r = NAME(pick)(a == INFINITE, 0, r);
    return NAME(pick)((a & ~SIGN) == 0, a | INFINITE, NAME(pick)(a > INFINITE, QUIET, r));
}

/* The exponent less its bias, and the mantissa's fraction. */
FASTK_INLINE UINT NAME(log2_at)(UINT place, UINT bias) {
    REAL exponent = (REAL)((int32_t)(place >> M_) - (int32_t)bias);
    return NAME(bits)(exponent + NAME(fraction)(place));
}

FASTK_INLINE UINT NAME(log2_tame)(UINT level) { return NAME(log2_at)(level, BIAS); }

FASTK_INLINE UINT NAME(log2)(UINT a, INT bias, int refined, struct NAME(format) f) {
    UINT p = NAME(place)(a & ~SIGN);
    p = (refined ? NAME(refine_log)(p) : p) + (UINT)bias;
    UINT r = NAME(rounded)(NAME(log2_at)(p, BIAS + M_), f, 0);
    r = NAME(pick)(a == INFINITE, INFINITE, r);
    return NAME(pick)((a & ~SIGN) == 0, SIGN | INFINITE, NAME(pick)(a > INFINITE, QUIET, r));
}

/* 2^x of a level of x << M: `places` is between -LIMIT << M and LIMIT << M. */
FASTK_INLINE UINT NAME(power)(INT places, INT bias, int refined, struct NAME(format) f) {
    UINT p = (UINT)places + ((LIMIT + BIAS) << M_);
    p = refined ? NAME(refine_exp)(p) : p + (UINT)bias;
    return NAME(packed)(p, 0, LIMIT << M_, f);
}

/* x in units of 2^-M, to the nearest; |x| <= LIMIT. */
FASTK_INLINE UINT NAME(exp2_tame)(UINT a) {
    REAL x = NAME(real)(a);
    INT whole = NAME(nearest)(x);
    REAL rest = x - (NAME(real)((UINT)whole + ROUNDER) - NAME(real)(ROUNDER));
    return ((UINT)whole << M_) + (UINT)NAME(nearest)(rest * (REAL)ONE_BIT);
}

FASTK_INLINE UINT NAME(exp2)(UINT a, INT bias, int refined, struct NAME(format) f) {
    const UINT limit = NAME(bits)((REAL)LIMIT);
    UINT u = a & ~SIGN, clamped = NAME(pick)(u < limit, u, limit);
    UINT r = NAME(power)((INT)NAME(exp2_tame)(clamped | (a & SIGN)), bias, refined, f);
    return NAME(pick)(u > INFINITE, QUIET, r);
}

/* p times a logarithm in units of 2^-M, rounded once or where exponent and fraction are apart, twice; within +-LIMIT <<
 * M. */
FASTK_INLINE INT NAME(scaled_log)(UINT log, REAL p) {
#if SCALE == 32
    const double limit = (double)((int64_t)LIMIT << M_);
    return (INT)nearest_64(clamped_64((double)(INT)log * (double)p, limit));
#else
    /* Exponent and fraction apart, since 64 bits do not fit in a double: exact where p has few bits. The fraction is
     * from -1/2, so that it never outweighs the exponent and either may be clamped. */
    const REAL limit = (REAL)LIMIT, rounder = NAME(real)(ROUNDER), much = (REAL)0x1p80;
    /* From 2^80 on any logarithm but 0 leaves the range, below 2^-80 none counts: no product overflows or underflows.
     */
    p = NAME(clamped)(p, much);
    p = NAME(real)(NAME(pick)((NAME(bits)(p) & ~SIGN) < NAME(bits)(1 / much), 0, NAME(bits)(p)));
    const UINT offset = (UINT)2048 << M_; /* keeps it positive */
    UINT centred = log + offset + ONE_BIT / 2;
    REAL t = (REAL)((int32_t)(centred >> M_) - (int32_t)(offset >> M_)) * p;
    REAL u = (NAME(fraction)(centred) - (REAL)0.5) * p;
    t = NAME(clamped)(t, 4 * limit);
    u = NAME(clamped)(u, 2 * limit);
    REAL whole = (t + rounder) - rounder, more = (u + rounder) - rounder;
    REAL rest = (t - whole) + (u - more), carry = (rest + rounder) - rounder;
    REAL sum = NAME(clamped)(whole + more + carry, limit - 1);
    INT part = NAME(nearest)((rest - carry) * (REAL)ONE_BIT);
    return (INT)((UINT)NAME(nearest)(sum) << M_) + part;
#endif
}

/* The same where no limit is reached. */
FASTK_INLINE INT NAME(tame_log)(UINT log, REAL p) {
#if SCALE == 32
    return (INT)nearest_64((double)(INT)log * (double)p);
#else
    return NAME(scaled_log)(log, p);
#endif
}

FASTK_INLINE UINT NAME(pow)(UINT a, UINT b, INT bias, INT log_bias, int refined, struct NAME(format) f) {
    UINT u = a & ~SIGN, v = b & ~SIGN;
    UINT p = NAME(place)(u);
    p = (refined ? NAME(refine_log)(p) : p) + (UINT)log_bias;
    REAL exponent = NAME(real)(NAME(pick)(v >= INFINITE, 0, b));
    UINT r = NAME(power)(NAME(scaled_log)(p - LIFT - ONE, exponent), bias, refined, f);
    /* v + 2^M has the integer nearest to v in its mantissa; from 2^M up v is an integer itself, from 2^(M+1) an even
     * one. */
    UINT whole = NAME(bits)(NAME(real)(NAME(pick)(v < INTEGER, v, 0)) + NAME(real)(INTEGER));
    int integer = (v >= INTEGER) | (NAME(bits)(NAME(real)(whole) - NAME(real)(INTEGER)) == v);
    UINT odd = NAME(pick)(integer & (v < INTEGER + ONE_BIT), NAME(pick)(v < INTEGER, whole, v) & 1, 0);
    int grows = (u > ONE) == (b < SIGN);
    r = NAME(pick)((v == INFINITE) | (u == 0) | (u == INFINITE), NAME(pick)(grows, INFINITE, 0), r);
    r = NAME(pick)((v == INFINITE) & (u == ONE), ONE, r);
    int undefined = (u > INFINITE) | (v > INFINITE) | ((a > SIGN) & (u < INFINITE) & !integer);
    r = NAME(pick)(undefined, QUIET, r | (a & odd << (SCALE - 1)));
    return NAME(pick)((v == 0) | (a == ONE), ONE, r);
}

#undef UINT
#undef INT
#undef REAL
#undef M_
#undef NAME
#undef SIGN
#undef ONE_BIT
#undef EXP_MAX
#undef BIAS
#undef ONE
#undef INFINITE
#undef QUIET
#undef FRACTION
#undef LIFT
#undef INTEGER
#undef ROUNDER
#undef LIMIT
#undef SCALE
