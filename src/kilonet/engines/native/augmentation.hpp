// Random changes of a group of images, as kilonet/data/augment.py defines them.
#pragma once
#include "network.hpp"

// The images of a group, each with the affine map of its augmentation; `kilonet.data.augment` defines the map.
struct GroupImages {
  const uint8_t* pixels[lanes];    // [channel][row][column]; null for a lane without an image
  const float* transforms[lanes];  // 2 x 3
};

constexpr int max_input_channels = 16;  // of `ModelSection.input`; mirrored by MAXIMUM_INPUT_CHANNELS in bindings.py

// How a channel of the images is normalised: scale * pixel + shift.
struct ChannelMaps {
  float scale[max_input_channels], shift[max_input_channels];
};

// Bytes of scratch that `resample` needs: the images with a frame of zeros, and a few that loads of two bytes read past the
// end.
inline size_t frame_bytes(Shape shape) {
  return (size_t)lanes * shape.channels * (shape.rows + 3) * (shape.columns + 3) + 8;
}

inline void copy_framed(Shape shape, const uint8_t* pixels, uint8_t* frame) {
  const size_t columns = shape.columns + 3;
  std::memset(frame, 0, shape.channels * (shape.rows + 3) * columns);
  if (!pixels) return;
  for (int c = 0; c < shape.channels; c++)
    for (int y = 0; y < shape.rows; y++)
      std::memcpy(frame + ((size_t)c * (shape.rows + 3) + y + 1) * columns + 1,
                  pixels + ((size_t)c * shape.rows + y) * shape.columns, shape.columns);
}

inline Vector clamped(Vector values, float lowest, float highest) {
  values = values > lowest ? values : broadcast(lowest);
  return values < highest ? values : broadcast(highest);
}

// Moves and normalises the images: output = scale * (bilinear sample) + shift, by channel. Outside an image is zero, or its
// nearest pixel if `repeats_edges`.
inline void resample(Shape shape, const GroupImages& images, const ChannelMaps& maps, bool repeats_edges, uint8_t* frames,
                     Vector* output) {
  const size_t columns = shape.columns + 3, frame = (shape.rows + 3) * columns;
  Vector map[6];
  Mask start;
  for (int l = 0; l < lanes; l++) {
    copy_framed(shape, images.pixels[l], frames + l * shape.channels * frame);
    start[l] = (int)(l * shape.channels * frame);
    for (int k = 0; k < 6; k++) map[k][l] = images.transforms[l][k];
  }
  // Positions in the frame are one more than in the image, because of the row and column of zeros before it.
  const float lowest = repeats_edges ? 1 : 0, beyond = repeats_edges ? 0 : 1;
  const float middle_x = 0.5f * (shape.columns - 1), middle_y = 0.5f * (shape.rows - 1);
  for (int y = 0; y < shape.rows; y++)
    for (int x = 0; x < shape.columns; x++) {
      const float from_x = x - middle_x, from_y = y - middle_y;
      const Vector source_x = clamped(map[0] * from_x + map[1] * from_y + map[2] + (middle_x + 1), lowest, shape.columns + beyond);
      const Vector source_y = clamped(map[3] * from_x + map[4] * from_y + map[5] + (middle_y + 1), lowest, shape.rows + beyond);
      const Mask left = __builtin_convertvector(source_x, Mask), top = __builtin_convertvector(source_y, Mask);
      const Vector right = source_x - __builtin_convertvector(left, Vector);
      const Vector below = source_y - __builtin_convertvector(top, Vector);
      const Mask place = start + top * (int)columns + left;
      for (int c = 0; c < shape.channels; c++) {
        Words upper, lower;
        for (int l = 0; l < lanes; l++) {
          uint16_t pair[2];
          const uint8_t* at = frames + place[l] + c * frame;
          std::memcpy(pair, at, 2);
          std::memcpy(pair + 1, at + columns, 2);
          upper[l] = pair[0], lower[l] = pair[1];
        }
        // Little-endian: the left pixel is the low byte.
        const auto blend = [&](Words two) {
          const Vector one = __builtin_convertvector((Mask)(two & 255), Vector);
          return one + right * (__builtin_convertvector((Mask)(two >> 8), Vector) - one);
        };
        const Vector above = blend(upper);
        output[c * shape.pitch() + y * shape.columns + x] =
            (above + below * (blend(lower) - above)) * maps.scale[c] + maps.shift[c];
      }
    }
}

// Replaces each pixel by pixel + share * (blurred - pixel): blurred by [1, 2, 1] / 4 along rows and columns, the border
// repeated. `scratch` has room for a plane.
inline void blur(Shape shape, Vector share, Vector* scratch, Vector* images) {
  const int rows = shape.rows, columns = shape.columns;
  for (int c = 0; c < shape.channels; c++) {
    Vector* plane = images + c * shape.pitch();
    for (int y = 0; y < rows; y++)
      for (int x = 0; x < columns; x++) {
        const Vector* row = plane + y * columns;
        scratch[y * columns + x] = (row[std::max(x - 1, 0)] + 2 * row[x] + row[std::min(x + 1, columns - 1)]) / 4;
      }
    for (int y = 0; y < rows; y++)
      for (int x = 0; x < columns; x++) {
        const Vector *above = scratch + std::max(y - 1, 0) * columns, *below = scratch + std::min(y + 1, rows - 1) * columns;
        const Vector blurred = (above[x] + 2 * scratch[y * columns + x] + below[x]) / 4;
        plane[y * columns + x] += share * (blurred - plane[y * columns + x]);
      }
  }
}

// Maps the channels of each pixel: a matrix [channel][channel + 1] of vectors, whose last column is added.
inline void map_colours(Shape shape, const Vector* matrix, Vector* images) {
  const int channels = shape.channels;
  for (size_t i = 0; i < shape.plane(); i++) {
    Vector before[max_input_channels];
    for (int c = 0; c < channels; c++) before[c] = images[c * shape.pitch() + i];
    for (int c = 0; c < channels; c++) {
      Vector sum = matrix[c * (channels + 1) + channels];
      for (int k = 0; k < channels; k++) sum += matrix[c * (channels + 1) + k] * before[k];
      images[c * shape.pitch() + i] = sum;
    }
  }
}

// Adds to each image its level times its own run of values, [channel][row][column].
inline void add_noise(Shape shape, Vector level, const float* const* values, Vector* images) {
  for (int c = 0; c < shape.channels; c++)
    for (size_t i = 0; i < shape.plane(); i++) {
      Vector noise;
      for (int l = 0; l < lanes; l++) noise[l] = values[l][c * shape.plane() + i];
      images[c * shape.pitch() + i] += level * noise;
    }
}

// Clamps pixels to 0 to 255 if `clamps`, and normalises them.
inline void normalise(Shape shape, const ChannelMaps& maps, bool clamps, Vector* images) {
  for (int c = 0; c < shape.channels; c++)
    for (size_t i = 0; i < shape.plane(); i++) {
      Vector& pixel = images[c * shape.pitch() + i];
      pixel = (clamps ? clamped(pixel, 0, 255) : pixel) * maps.scale[c] + maps.shift[c];
    }
}

// Sets a rectangle of each image to zero: first row, row behind the last, first column, column behind the last.
inline void cut_out(Shape shape, const Mask* rectangle, Vector* images) {
  for (int y = 0; y < shape.rows; y++) {
    const Mask in_rows = (rectangle[0] <= y) & (rectangle[1] > y);
    for (int x = 0; x < shape.columns; x++) {
      const Mask kept = ~(in_rows & (rectangle[2] <= x) & (rectangle[3] > x));
      for (int c = 0; c < shape.channels; c++) {
        Vector& pixel = images[c * shape.pitch() + y * shape.columns + x];
        pixel = masked(kept, pixel);
      }
    }
  }
}

// Replaces images by share * image + (1 - share) * other.
inline void mix(Shape shape, Vector share, const Vector* others, Vector* images) {
  for (size_t i = 0; i < shape.vectors(); i++) images[i] = share * images[i] + (1 - share) * others[i];
}
