"""Sheets: what is drawn, where, in which colours; images and texts that are small, long or no images."""

import numpy as np
import pytest
from evals.visualisations.looking import BLUE, GREEN, RED, box, plain

from sslax.errors import UserError
from sslax.evals import visualisations
from sslax.evals.visualisations.text import font, wrap


def test_sheet_places_images():
  image = visualisations.sheet([[plain(RED), plain(BLUE)], [plain(GREEN)]])
  assert image.mode == 'RGB' and image.size == (2 * 96 + 6 + 2 * 14, 2 * 96 + 6 + 2 * 14)
  assert box(image, RED) == (14, 14, 110, 110)
  assert box(image, BLUE) == (116, 14, 212, 110)
  assert box(image, GREEN) == (14, 116, 110, 212)


def test_sheet_enlarges_pixels_to_squares():
  small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  image = np.asarray(visualisations.sheet([[small]]))
  assert (image[14:-14, 14:-14] == small.repeat(12, 0).repeat(12, 1)).all()


def test_sheet_keeps_relative_sizes_in_the_middle_of_cells():
  image = visualisations.sheet([[plain(RED, 16, 16), plain(BLUE, 8, 8)], [plain(GREEN, 8, 8), plain(RED, 8, 8)]])
  assert box(image, BLUE) == (14 + 96 + 6, 14 + 24, 14 + 96 + 6 + 48, 14 + 72)
  assert box(image, GREEN) == (14 + 24, 116, 14 + 72, 116 + 48)


def test_sheet_shrinks_large_images_and_obeys_scale():
  assert box(visualisations.sheet([[plain(RED, 300, 600)]]), RED) == (14, 14, 14 + 256, 14 + 128)
  assert box(visualisations.sheet([[plain(RED, 224, 224)]]), RED) == (14, 14, 238, 238)
  assert box(visualisations.sheet([[plain(RED)]], scale=3), RED) == (14, 14, 38, 38)


def test_sheet_writes_labels_beside_images():
  image = np.asarray(
    visualisations.sheet([[plain(RED)], [plain(BLUE)]], ['cat', 'a very long name ' * 5], ['original'], 'A title')
  )
  x0, y0, x1, y1 = box(image, RED)
  bx0, by0, _, by1 = box(image, BLUE)
  assert x0 == bx0
  dark = (image < 128).all(-1)
  assert dark[y0:y1, :x0].any() and dark[by0:by1, :x0].any()  # row labels
  assert (image[y0 - 22 : y0, x0:x1] < 200).any()  # column label
  assert dark[14:28, 14:100].any()  # title
  assert not dark[:, :14].any()  # nothing runs into the margin
  assert not dark[:, x0 - 6 : x0].any()  # nor into the images


def test_sheet_accepts_grey():
  assert box(visualisations.sheet([[np.full((8, 8), 77, np.uint8), np.full((8, 8, 1), 99, np.uint8)]]), (99,) * 3) == (
    116,
    14,
    212,
    110,
  )


@pytest.mark.parametrize(
  ('rows', 'keywords', 'message'),
  [
    ([], {}, 'no images'),
    ([[]], {}, 'no images'),
    ([[plain(RED).astype(np.float32)]], {}, 'row 0, column 0 is float32'),
    ([[plain(RED), np.zeros((8, 8, 4), np.uint8)]], {}, 'row 0, column 1'),
    ([[plain(RED)]], {'row_labels': ['a', 'b']}, '2 row labels for 1 rows'),
    ([[plain(RED)]], {'column_labels': []}, '0 column labels for 1 columns'),
  ],
)
def test_sheet_refuses(rows, keywords, message):
  with pytest.raises(UserError, match=message):
    visualisations.sheet(rows, **keywords)


def test_views_sheet_undoes_the_normalisation():
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  original = plain((10, 200, 30), 16, 16)[None]
  normalised = (np.float32([7, 120, 250]) / 255 - mean) / std
  large = np.tile(normalised, (1, 2, 16, 16, 1))
  large[0, 1] = (-100, 100, 0.0)
  small = np.full((1, 1, 8, 8, 3), np.nan)
  image = visualisations.views_sheet(original, [large, small], mean, std, ['cat'])
  x = box(image, (10, 200, 30))[0]
  y = 14 + 22  # below the column labels
  assert box(image, (10, 200, 30)) == (x, y, x + 96, y + 96)
  assert box(image, (7, 120, 250)) == (x + 102, y, x + 198, y + 96)
  assert box(image, (0, 255, round(0.406 * 255))) == (x + 204, y, x + 300, y + 96)  # clipped
  assert box(image, (255, 0, 255))[3] - box(image, (255, 0, 255))[1] == 48  # NaN is magenta


def test_views_sheet_refuses_other_shapes():
  with pytest.raises(UserError, match=r'\[N, V, S, S, 3\]'):
    visualisations.views_sheet(plain(RED)[None], [np.zeros((2, 1, 8, 8, 3))], (0, 0, 0), (1, 1, 1))


def neighbours(index=((0, 1),), similarity=((0.9, 0.5),)):
  gallery = np.stack([plain(BLUE), plain((0, 255, 255))])
  return visualisations.neighbours_sheet(
    plain(RED)[None], [3], gallery, [3, 4], np.array(index), np.array(similarity), ('a', 'b', 'c', 'd', 'e')
  )


def test_neighbours_sheet_frames_by_class():
  image = neighbours()
  same, other = box(image, visualisations.SAME), box(image, visualisations.OTHER)
  x0, y0, x1, y1 = box(image, BLUE)
  assert same == (x0 - 4, y0 - 4, x1 + 4, y1 + 20)  # the frame, and the bar with the similarity
  x0, y0, x1, y1 = box(image, (0, 255, 255))
  assert other == (x0 - 4, y0 - 4, x1 + 4, y1 + 20)
  assert box(image, RED)[1] == y0  # the query stands level with its neighbours


def test_neighbours_sheet_marks_without_colour():
  bars = []
  for box_ in (box(neighbours(), visualisations.SAME), box(neighbours(similarity=((0.9, 0.9),)), visualisations.OTHER)):
    image = neighbours(similarity=((0.9, 0.9),)).convert('L')
    bars.append(np.asarray(image)[box_[3] - 18 : box_[3] - 2, box_[0] : box_[2]] > 200)  # the white text
  assert bars[0].sum() > 50 and (bars[0] != bars[1]).sum() > 10  # a tick is no cross
  low = np.asarray(neighbours(similarity=((0.1, 0.9),)))
  assert (low != np.asarray(neighbours(similarity=((0.9, 0.9),)))).any()  # the similarity is printed


def test_neighbours_of_what_has_no_label():
  """Neither right nor wrong: no frame in green or red, no tick, and no share of hits in the title."""
  show = lambda query, gallery: visualisations.neighbours_sheet(
    [plain(RED)], [query], [plain(BLUE), plain(GREEN)], gallery, np.array([[0, 1]]), np.array([[0.9, 0.5]])
  )
  same, other = visualisations.SAME, visualisations.OTHER
  has = lambda image, colour: (np.asarray(image) == colour).all(-1).any()
  for image in (show(-1, [-1, -1]), show(-1, [0, 1]), show(0, [-1, -1])):
    assert not has(image, same) and not has(image, other) and has(image, visualisations.FAINT)
    assert image.height == show(-1, [-1, -1]).height
  assert show(-1, [-1, -1]).tobytes() == show(-1, [0, 1]).tobytes()
  some = show(0, [-1, 0])
  assert has(some, same) and not has(some, other)


def test_neighbours_sheet_refuses():
  with pytest.raises(UserError, match=r'\[Q, k\]'):
    neighbours(similarity=((0.9,),))
  with pytest.raises(UserError, match=r'\[0, 2\)'):
    neighbours(index=((0, 2),))


def test_neighbours_sheet_of_texts_and_of_images_of_several_sizes():
  texts = [f'{animal} runs over the grass' for animal in ('a dog', 'a cat', 'a very long sentence about a horse ' * 9)]
  index, near = np.array([[1, 2]]), np.array([[0.9, 0.1]])
  image = visualisations.neighbours_sheet(texts[:1], [0], texts, [0, 0, 1], index, near)
  (x0, y0, x1, y1), other = box(image, visualisations.SAME), box(image, visualisations.OTHER)
  assert (x1 - x0, y1 - y0) == (144 + 8, 96 + 24) and other[2] - other[0] == 152
  inside = np.asarray(image)[y0 + 4 : y1 - 20, x0 + 4 : x1 - 4]
  assert (inside == 255).all(-1).mean() > 0.7 and (inside < 128).all(-1).any()
  mixed = visualisations.neighbours_sheet(
    [plain(RED, 16, 8)], [0], [plain(BLUE), 'text', plain(GREEN, 4, 16)], [0, 0, 1], index, near
  )
  assert box(mixed, RED)[3] - box(mixed, RED)[1] == 96 and box(mixed, GREEN)[2] - box(mixed, GREEN)[0] == 96
  with pytest.raises(UserError, match='gallery 2 is float64'):
    visualisations.neighbours_sheet([plain(RED)], [0], ['a', 'b', np.zeros((8, 8, 3))], [0, 0, 1], index, near)


# Texts among images


def ink(image):
  """(x0, y0, x1, y1) of what is dark."""
  y, x = np.nonzero((np.asarray(image) < 128).all(-1))
  return x.min(), y.min(), x.max() + 1, y.max() + 1


LONG = 'a dog runs over the grass and jumps over a fence ' * 20


def test_sheet_draws_a_text_in_the_cell_of_an_image():
  image = visualisations.sheet([[plain(RED), plain(BLUE)], [plain(GREEN), LONG]])
  assert image.size == (2 * 96 + 6 + 2 * 14, 2 * 96 + 6 + 2 * 14)  # as with an image in its place
  x0, y0, x1, y1 = ink(image)
  assert 116 <= x0 < 122 and 116 <= y0 < 122 and 190 < x1 <= 212 and 195 < y1 <= 212  # it fills its cell and no more
  shown = '\n'.join(wrap(LONG, font(12), 96 - 2 * 3, 6))  # six lines of 16 px, from the first on
  assert shown.endswith('…') and visualisations.sheet([[plain(RED), plain(BLUE)], [plain(GREEN), shown]]) == image
  white = np.asarray(image)[116:212, 116:212]
  assert (white[:2] == 255).all() and (white[:, :2] == 255).all() and (white == 255).all(-1).mean() > 0.5
  assert [box(image, colour) for colour in (RED, BLUE, GREEN)] == [(14, 14, 110, 110), (116, 14, 212, 110), (14, 116, 110, 212)]


def test_sheet_gives_a_column_of_texts_room():
  image = visualisations.sheet([[plain(RED), 'a dog'], [plain(BLUE), LONG]], ['one', 'two'], ['image', 'caption'])
  x, y = box(image, RED)[:2]
  assert image.size == (x + 96 + 6 + 256 + 14, 14 + 22 + 2 * 96 + 6 + 14)
  assert box(image, BLUE) == (x, y + 102, x + 96, y + 198)
  wide = visualisations.sheet([[plain(RED, 128, 400), 'a dog']], scale=1)
  assert wide.size == (14 + 400 + 6 + 400 + 14, 128 + 2 * 14)


def test_sheet_of_texts_alone():
  one, three = (visualisations.sheet([[text]]) for text in ('a dog', 'a dog\n\na cat'))
  assert one.size == (256 + 2 * 14, 16 + 2 * 14) and three.size == (256 + 2 * 14, 3 * 16 + 2 * 14)
  assert visualisations.sheet([[LONG]]).size == (256 + 2 * 14, 256 + 2 * 14)
  assert visualisations.sheet([['']]).size[0] == 256 + 2 * 14 and visualisations.sheet([[plain(RED), '']])
  assert visualisations.sheet([['a dog']], scale=0.5).size == one.size  # it scales images


def test_wrapped_lines_fit_and_lose_nothing():
  face = font(12)
  for width in (45, 90, 250):
    lines = wrap(LONG, face, width, 1000)
    assert all(face.getlength(line) <= width for line in lines) and len(lines) > 1
    assert ' '.join(lines).split() == LONG.split()
    assert all(face.getlength(f'{a} {b.split()[0]}') > width for a, b in zip(lines, lines[1:], strict=False)), 'full lines'
  word = 'x' * 100
  assert ''.join(wrap(word, face, 50, 1000)) == word and max(map(face.getlength, wrap(word, face, 50, 1000))) <= 50
  assert wrap('first\nsecond  line', face, 250, 9) == ['first', 'second line']
  assert wrap('a b', face, 0, 9) == ['a', 'b'] and wrap('', face, 50, 9) == []


def test_a_text_that_is_too_long_ends_in_an_ellipsis():
  face = font(12)
  lines = wrap(LONG, face, 90, 3)
  assert len(lines) == 3 and lines[:2] == wrap(LONG, face, 90, 1000)[:2] and lines[-1].endswith('…')
  assert face.getlength(lines[-1]) <= 90 and LONG.startswith(' '.join(lines)[:-1])
  assert wrap('a dog', face, 90, 1) == ['a dog']


@pytest.mark.parametrize(
  ('text', 'shown'), [('caf\udce9', 'caf\ufffd'), ('a\x00b\x1b[31m', 'a\ufffdb\ufffd[31m'), ('a\nb', 'a b'), ('\ufffe', '\ufffd')]
)
def test_sheet_takes_any_text(text, shown):
  image, want = (visualisations.sheet([[plain(RED), f'{t} {t}']], [t], [t, t], t) for t in (text.replace('\n', ' '), shown))
  assert image.tobytes() == want.tobytes() and box(image, RED)
  assert visualisations.sheet([[plain(RED)]], [text], [text], text).tobytes() == (
    visualisations.sheet([[plain(RED)]], [shown], [shown], shown).tobytes()
  )
  pair = plain(RED)[None], [0], plain(BLUE)[None], [0], np.array([[0]]), np.array([[0.5]])
  images = [visualisations.neighbours_sheet(*pair, [name]).tobytes() for name in (text, shown)]
  assert images[0] == images[1]
