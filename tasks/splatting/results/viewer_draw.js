// WebGL2: one quad per Gaussian, far ones first, colours multiplied by their opacity.

const VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform usampler2D splats, harmonics;
uniform mat3 turn;        // world to camera: x right, y down, z ahead
uniform vec3 shift, eye;
uniform vec4 lens;        // fx fy cx cy, pixels of the canvas
uniform vec2 size;        // of the canvas, pixels
uniform vec2 scales;      // logarithm of a scale: lowest, span
uniform vec3 colorLow, colorSpan;
uniform int degree;
uniform bool antialiased;
in uint number;
out vec4 color;
out vec2 place;           // in standard deviations from the centre

uvec4 texel(usampler2D from, uint at) { return texelFetch(from, ivec2(at & 4095u, at >> 12u), 0); }
vec2 halves(uint both) { return vec2(both & 65535u, both >> 16u) / 65535.; }

float quarter(uvec4 words, int at) { return float((words[at >> 2] >> (8u * uint(at & 3))) & 255u) / 127. - 1.; }
uvec4 block[3];
vec3 sh(int i) {
  vec3 found;
  for (int c = 0; c < 3; c++) { int at = 3 * i + c; found[c] = quarter(block[at >> 4], at & 15); }
  return found;
}
// Source: Sloan 2013, Efficient Spherical Harmonic Evaluation; order and signs as 3DGS, arXiv:2308.04079.
vec3 viewed(vec3 d, uint i) {
  if (degree == 0) return vec3(0);
  uint texels = uint(degree);
  for (uint k = 0u; k < 3u; k++) if (k < texels) block[k] = texel(harmonics, i * texels + k);
  float most = unpackHalf2x16(block[degree - 1].w).y;
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  vec3 sum = .48860251190291987 * (-y * sh(0) + z * sh(1) - x * sh(2));
  if (degree > 1) {
    sum += 1.0925484305920792 * (x * y * sh(3) - y * z * sh(4) - x * z * sh(6));
    sum += .31539156525252005 * (2. * zz - xx - yy) * sh(5) + .5462742152960396 * (xx - yy) * sh(7);
  }
  if (degree > 2) {
    sum += -.5900435899266435 * (y * (3. * xx - yy) * sh(8) + x * (xx - 3. * yy) * sh(14));
    sum += 2.890611442640554 * x * y * z * sh(9) + 1.445305721320277 * z * (xx - yy) * sh(13);
    sum += -.4570457994644658 * (4. * zz - xx - yy) * (y * sh(10) + x * sh(12));
    sum += .3731763325901154 * z * (2. * zz - 3. * xx - 3. * yy) * sh(11);
  }
  return most * sum;
}

void main() {
  gl_Position = vec4(0, 0, 2, 1);  // outside
  uvec4 a = texel(splats, 2u * number), b = texel(splats, 2u * number + 1u);
  vec3 mean = uintBitsToFloat(a.xyz);
  vec3 p = turn * mean + shift;
  vec2 centre = lens.xy * p.xy / p.z + lens.zw;
  vec2 first = halves(a.w), second = halves(b.x);
  vec3 deviation = exp(scales.x + scales.y * vec3(first, second.x));
  float opacity = second.y;
  vec4 q = 2. * vec4(halves(b.y), halves(b.z)) - 1.;  // w x y z
  q /= length(q);
  float w = q.x, x = q.y, y = q.z, z = q.w;
  mat3 axes = mat3(
    1. - 2. * (y * y + z * z), 2. * (x * y + w * z), 2. * (x * z - w * y),
    2. * (x * y - w * z), 1. - 2. * (x * x + z * z), 2. * (y * z + w * x),
    2. * (x * z + w * y), 2. * (y * z - w * x), 1. - 2. * (x * x + y * y));
  mat3 m = turn * axes * mat3(deviation.x, 0, 0, 0, deviation.y, 0, 0, 0, deviation.z);

  // Projected covariance; the slope is held within 1.3 times the field of view, as in 3DGS.
  vec2 rim = .15 * size / lens.xy;
  vec2 slope = clamp(p.xy / p.z, -lens.zw / lens.xy - rim, (size - lens.zw) / lens.xy + rim);
  vec3 u = (vec3(m[0].x, m[1].x, m[2].x) - slope.x * vec3(m[0].z, m[1].z, m[2].z)) * lens.x / p.z;
  vec3 v = (vec3(m[0].y, m[1].y, m[2].y) - slope.y * vec3(m[0].z, m[1].z, m[2].z)) * lens.y / p.z;
  float xx = dot(u, u) + .3, yy = dot(v, v) + .3, xy = dot(u, v);
  if (antialiased) {
    vec3 n = cross(u, v);
    opacity *= sqrt(dot(n, n) / (xx * yy - xy * xy));
  }
  if (opacity * 255. < 1.) return;
  float middle = .5 * (xx + yy), off = length(vec2(.5 * (xx - yy), xy));
  float major = sqrt(middle + off), minor = sqrt(max(middle - off, .3));
  vec2 along = xx >= yy ? vec2(middle + off - yy, xy) : vec2(xy, middle + off - xx);
  along = dot(along, along) > 0. ? normalize(along) : vec2(1, 0);
  float reach = sqrt(2. * log(255. * opacity));  // beyond, less than 1/255 is left
  vec2 bounds = reach * sqrt(vec2(xx, yy));
  if (any(lessThan(centre + bounds, vec2(0))) || any(greaterThan(centre - bounds, size))) return;

  vec2 corner = vec2((gl_VertexID & 1) * 2 - 1, (gl_VertexID & 2) - 1);
  place = corner * reach;
  vec2 at = centre + place.x * major * along + place.y * minor * vec2(-along.y, along.x);
  gl_Position = vec4(2. * at.x / size.x - 1., 1. - 2. * at.y / size.y, 0, 1);
  vec3 base = vec3(b.w & 2047u, (b.w >> 11u) & 2047u, b.w >> 22u) / vec3(2047, 2047, 1023) * colorSpan + colorLow;
  color = vec4(max(base + viewed(normalize(mean - eye), number), 0.), opacity);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec4 color;
in vec2 place;
out vec4 result;
void main() {
  float alpha = min(.999, color.a * exp(-.5 * dot(place, place)));
  if (alpha < 1. / 255.) discard;
  result = vec4(color.rgb * alpha, alpha);
}`;

class Painter {
  constructor(canvas, meta, words, harmonics) {
    this.canvas = canvas;
    this.meta = meta;
    this.words = words;
    this.harmonics = harmonics;
    this.found = 0;
    const wanted = { alpha: false, antialias: false, depth: false, stencil: false, powerPreference: "high-performance" };
    this.gl = canvas.getContext("webgl2", wanted);
    if (this.gl) this.prepare();
  }

  prepare() {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
        throw new Error(gl.getShaderInfoLog(shader));
      }
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
      throw new Error(gl.getProgramInfoLog(program));
    }
    gl.useProgram(program);
    this.at = (name) => gl.getUniformLocation(program, name);
    this.texture(0, "splats", this.words);
    this.texture(1, "harmonics", this.harmonics.length ? this.harmonics : new Uint32Array(4));
    this.buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffer);
    gl.bufferData(gl.ARRAY_BUFFER, 4 * this.meta.count, gl.DYNAMIC_DRAW);
    const number = gl.getAttribLocation(program, "number");
    gl.enableVertexAttribArray(number);
    gl.vertexAttribIPointer(number, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(number, 1);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    const meta = this.meta;
    gl.uniform2f(this.at("scales"), meta.scaleLow, meta.scaleSpan);
    gl.uniform3fv(this.at("colorLow"), meta.colorLow);
    gl.uniform3fv(this.at("colorSpan"), meta.colorSpan);
    gl.uniform1i(this.at("degree"), meta.degree);
    gl.uniform1i(this.at("antialiased"), meta.antialiased ? 1 : 0);
  }

  // Four words to a texel, 4096 texels to a row.
  texture(unit, name, words) {
    const gl = this.gl, rows = Math.max(1, Math.ceil(words.length / 16384)), whole = Math.floor(words.length / 16384);
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA32UI, 4096, rows);
    const put = (row, width, height, part) =>
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, row, width, height, gl.RGBA_INTEGER, gl.UNSIGNED_INT, part);
    if (whole) put(0, 4096, whole, words.subarray(0, 16384 * whole));
    const rest = words.subarray(16384 * whole);
    if (rest.length) put(whole, rest.length / 4, 1, rest);
    gl.uniform1i(this.at(name), unit);
  }

  setOrder(order, found) {
    this.found = found;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffer);
    this.gl.bufferSubData(this.gl.ARRAY_BUFFER, 0, order, 0, found);
  }

  // `pose` as in viewer_camera.js, `lens` [fx, fy, cx, cy] for the canvas's size in pixels.
  draw(pose, lens) {
    const gl = this.gl, { width, height } = this.canvas, [r, g, b] = this.meta.background;
    gl.viewport(0, 0, width, height);
    gl.clearColor(r, g, b, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const m = pose.rows;
    gl.uniformMatrix3fv(this.at("turn"), false, [m[0], m[3], m[6], m[1], m[4], m[7], m[2], m[5], m[8]]);
    gl.uniform3fv(this.at("shift"), shiftOf(pose));
    gl.uniform3fv(this.at("eye"), pose.eye);
    gl.uniform4fv(this.at("lens"), lens);
    gl.uniform2f(this.at("size"), width, height);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.found);
  }
}
