// SPDX-License-Identifier: GPL-2.0-or-later
//
// Catch2, whichever of 2.13 and 3 the distribution has.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
