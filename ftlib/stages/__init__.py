"""Every stage: one public function a file, one typed input, one typed output."""
