"""Images: data sets, file formats, folders, decoding, augmentation; `digits` finds a digit in a photo."""
