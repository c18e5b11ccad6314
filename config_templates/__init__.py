"""Templates of the files a site or a user installs. Data only; each is loaded by a test."""
