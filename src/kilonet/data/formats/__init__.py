"""What each format of a data set holds: labelled files or arrays, found without decoding a picture."""
