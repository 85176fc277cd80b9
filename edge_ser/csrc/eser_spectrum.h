/* From windowed samples to Mel bands, once for every type of REAL: float, one frame, or a vector of floats, a frame in each lane.
 *
 * Nothing but +, -, * in a fixed order, so that a lane has the bits of a frame alone. INLINE and REAL are defined where this is included.
 */

/* A pass of Stockham's FFT by radix 4: n points at distance stride, from x to y; the order comes out right. The loops are written
 * for compilers that make SIMD of them: constant bounds where the pass is inlined, and arrays that do not overlap. */
INLINE void pass4(int n, int stride, const REAL *restrict xr, const REAL *restrict xi, REAL *restrict yr, REAL *restrict yi) {
    const int quarter = n / 4, step = 1024 / n, far = stride * quarter;
    for (int p = 0; p < quarter; p++) {
        /* w^k = cos - i sin of 2 pi k / n; the sine is a cosine a quarter later. */
        const float *w = eser_cosine + p * step;
        const float c1 = w[0], s1 = w[256], c2 = w[p * step], s2 = w[p * step + 256];
        const float c3 = w[2 * p * step], s3 = w[2 * p * step + 256];
        const REAL *restrict ar = xr + stride * p, *restrict ai = xi + stride * p;
        REAL *restrict br = yr + 4 * stride * p, *restrict bi = yi + 4 * stride * p;
        for (int q = 0; q < stride; q++) {
            const REAL sum0r = ar[q] + ar[q + 2 * far], sum0i = ai[q] + ai[q + 2 * far];
            const REAL sum1r = ar[q + far] + ar[q + 3 * far], sum1i = ai[q + far] + ai[q + 3 * far];
            const REAL dif0r = ar[q] - ar[q + 2 * far], dif0i = ai[q] - ai[q + 2 * far];
            const REAL dif1r = ar[q + far] - ar[q + 3 * far], dif1i = ai[q + far] - ai[q + 3 * far];
            const REAL t1r = dif0r + dif1i, t1i = dif0i - dif1r;
            const REAL t2r = sum0r - sum1r, t2i = sum0i - sum1i;
            const REAL t3r = dif0r - dif1i, t3i = dif0i + dif1r;
            br[q] = sum0r + sum1r;
            bi[q] = sum0i + sum1i;
            br[q + stride] = c1 * t1r - s1 * t1i;
            bi[q + stride] = c1 * t1i + s1 * t1r;
            br[q + 2 * stride] = c2 * t2r - s2 * t2i;
            bi[q + 2 * stride] = c2 * t2i + s2 * t2r;
            br[q + 3 * stride] = c3 * t3r - s3 * t3i;
            bi[q + 3 * stride] = c3 * t3i + s3 * t3r;
        }
    }
}

/* The last pass, by radix 2, and the power of bins 1..511 of the real signal, whose even samples were the real parts and whose odd ones the
 * imaginary parts; end is bin 512. Bins 0 and 512 lie on the outermost edges of the Mel bands and weigh nothing: what is computed of
 * them makes the loop a multiple of every vector long. */
INLINE void powers(const REAL *restrict re, const REAL *restrict im, REAL *restrict power, REAL *restrict end) {
    /* Bins k and 512 - k share their even part e and their odd part o: 2 X[k] = e + w o, 2 X[512 - k] = conj(e - w o). */
    for (int k = 0; k < 256; k++) {
        const REAL ar = re[k] + re[k + 256], ai = im[k] + im[k + 256];
        const REAL br = re[256 - k] - re[512 - k], bi = im[256 - k] - im[512 - k];
        const REAL evr = ar + br, evi = ai - bi;
        const REAL odr = ai + bi, odi = br - ar;
        const float c = eser_cosine[k], s = eser_cosine[k + 256];
        const REAL tr = c * odr - s * odi, ti = c * odi + s * odr;
        end[-k] = 0.25f * ((evr - tr) * (evr - tr) + (evi - ti) * (evi - ti));
        power[k] = 0.25f * ((evr + tr) * (evr + tr) + (evi + ti) * (evi + ti));
    }
    const REAL r = re[0] - re[256], i = im[0] - im[256];
    power[256] = r * r + i * i;
}

/* Mel bands of the 512 complex numbers re, im and any one behind them; re2, im2 are working memory of as many. */
INLINE void mel_bands(REAL *re, REAL *im, REAL *re2, REAL *im2, REAL *bands) {
    pass4(512, 1, re, im, re2, im2);
    pass4(128, 4, re2, im2, re, im);
    pass4(32, 16, re, im, re2, im2);
    pass4(8, 64, re2, im2, re, im);
    powers(re, im, re2, re2 + 512);
    const float *weight = eser_mel_weight;
    for (int band = 0; band < ESER_N_BINS; band++) {
        const REAL *bins = re2 + eser_mel_first[band];
        REAL sum = {0.0f};
        for (int i = 0; i < eser_mel_count[band]; i++)
            sum += bins[i] * *weight++;
        bands[band] = sum;
    }
}
